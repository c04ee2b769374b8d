"""The agent: states, actions, rewards, their calibration, and PPO. Plain torch."""

from rlkd.agent.agent import TemperatureAgent
from rlkd.agent.learner import Learner
from rlkd.agent.look_ahead import LookAhead
from rlkd.agent.reward import Reward
from rlkd.agent.state import instance_state

__all__ = ["Learner", "LookAhead", "Reward", "TemperatureAgent", "instance_state"]
