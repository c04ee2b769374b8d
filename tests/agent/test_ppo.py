import copy
import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from rlkd.agent.actor_critic import Actor, Critic
from rlkd.agent.ppo import PPO, Experience, clipped_objective


class Nothing(gymnasium.Env[Any, Any]):
    """An environment that stable-baselines3 asks for and never steps."""

    observation_space = spaces.Box(0, 1, (3,))
    action_space = spaces.Box(0, 1, (1,))


class Scripted:
    """What stable-baselines3's PPO.train reads, with the log-probabilities given."""

    def __init__(self, log_prob: Tensor) -> None:
        self.log_prob, self.anything = log_prob, nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.SGD([self.anything], lr=0.0)

    def set_training_mode(self, _: bool) -> None: ...

    def parameters(self) -> list[nn.Parameter]:
        return [self.anything]

    def evaluate_actions(self, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zeros = torch.zeros_like(self.log_prob)
        return zeros, self.log_prob, zeros


def objective_of_stable_baselines3(
    monkeypatch: pytest.MonkeyPatch,
    log_prob: Tensor,
    log_prob_old: Tensor,
    advantage: Tensor,
    *,
    clip: float,
) -> float:
    """Run its PPO.train on one batch; leaves the loss's gradient in log_prob.grad."""
    rows = len(log_prob)
    theirs = stable_baselines3.PPO(
        "MlpPolicy",
        Nothing(),
        n_steps=rows,
        batch_size=rows,
        n_epochs=1,
        clip_range=clip,
        normalize_advantage=False,
        vf_coef=0.0,
        device="cpu",
    )
    buffer = theirs.rollout_buffer
    buffer.advantages[:, 0] = advantage.numpy()
    buffer.log_probs[:, 0] = log_prob_old.numpy()
    buffer.full = True
    # The buffer shuffles its rows; the scripted policy answers in their order.
    samples = buffer._get_samples  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(buffer, "get", lambda _: iter([samples(np.arange(rows))]))  # pyright: ignore
    buffer.generator_ready = True
    for name in ("observations", "actions", "values", "log_probs", "advantages", "returns"):
        setattr(buffer, name, buffer.swap_and_flatten(getattr(buffer, name)))
    monkeypatch.setattr(theirs, "policy", Scripted(log_prob))
    logger = Logger(folder=None, output_formats=[])
    theirs.set_logger(logger)
    theirs.train()
    return -float(logger.name_to_value["train/policy_gradient_loss"])


@pytest.mark.parametrize("clip", [0.1, 0.2, 0.3])
def test_the_clipped_objective_equals_that_of_stable_baselines3(
    monkeypatch: pytest.MonkeyPatch, clip: float
) -> None:
    log_prob_old, advantage = torch.randn(64), torch.randn(64)
    ours = (log_prob_old + 0.3 * torch.randn(64)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    objective = clipped_objective(ours, log_prob_old, advantage, clip=clip).mean()
    (-objective).backward()
    expected = objective_of_stable_baselines3(
        monkeypatch, theirs, log_prob_old, advantage, clip=clip
    )
    assert objective.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert theirs.grad is not None
    assert theirs.grad.abs().max() > 0
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.5, 1.0, 1.2, 0.0),  # clipped: no gain from moving on
        (0.5, 1.0, 0.5, 0.5),  # worse than before: not clipped
        (1.5, -1.0, -1.5, -1.5),  # the wrong way: not clipped
        (0.5, -1.0, -0.8, 0.0),  # clipped
    ],
)
def test_the_clipped_objective_by_hand(
    ratio: float, advantage: float, expected: float, slope: float
) -> None:
    log_prob = torch.tensor([math.log(ratio)], requires_grad=True)
    found = clipped_objective(log_prob, torch.zeros(1), torch.tensor([advantage]), clip=0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert log_prob.grad is not None
    assert log_prob.grad.item() == pytest.approx(slope, rel=1e-6)


def make_ppo(**options: Any) -> PPO:
    actor = Actor(base_temperature=4.0, max_temperature=10.0, initial_std=0.5, hidden=8)
    defaults: dict[str, Any] = {
        "clip": 0.2,
        "epochs": 1,
        "minibatches": 1,
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "max_grad_norm": 2.0,
        "entropy_bonus": 0.0,
    }
    return PPO(actor, Critic(hidden=8), **(defaults | options))


def experience_of(ppo: PPO, ratio: Tensor, *, mask: Tensor | None = None) -> Experience:
    """Rows whose probability ratios are given."""
    rows = len(ratio)
    state, action = torch.rand(rows, 3), torch.randn(rows)
    log_prob = ppo.actor(state).log_prob(action).detach()
    return Experience(
        state=state,
        raw_action=action,
        log_prob_old=log_prob - ratio.log(),
        advantage=torch.randn(rows),
        value_target=torch.randn(rows),
        mask=torch.ones(rows) if mask is None else mask,
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_figures_of_an_update_by_hand() -> None:
    ppo = make_ppo()
    ratio = torch.tensor([1.0, 1.1, 1.3, 0.7, 5.0])
    mask = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    figures = ppo.update(experience_of(ppo, ratio, mask=mask), generator())
    kl = sum(r - 1 - math.log(r) for r in (1.0, 1.1, 1.3, 0.7)) / 4
    assert figures["approx_kl"].item() == pytest.approx(kl, rel=1e-4)
    assert figures["clip_fraction"] == 0.5
    assert figures["first_ratio_error"].item() == pytest.approx(0.3, rel=1e-4)
    # the entropy of a Gaussian of standard deviation 1/2: ln(0.5 sqrt(2 pi e))
    expected = math.log(0.5 * math.sqrt(2 * math.pi * math.e))
    assert figures["entropy"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("entropy_bonus", [0.0, 0.1])
@pytest.mark.parametrize("max_grad_norm", [1e-3, 1e3])
def test_an_update_descends_the_masked_loss_by_its_clipped_gradient(
    entropy_bonus: float, max_grad_norm: float
) -> None:
    ppo = make_ppo(entropy_bonus=entropy_bonus, max_grad_norm=max_grad_norm)
    mask = (torch.rand(32) < 0.6).float()
    seen = experience_of(ppo, (0.2 * torch.randn(32)).exp(), mask=mask)
    actor, critic = copy.deepcopy(ppo.actor), copy.deepcopy(ppo.critic)
    ppo.update(seen, generator())
    kept = mask.bool()  # the twin never sees the masked rows
    policy = actor(seen.state[kept])
    ratio = (policy.log_prob(seen.raw_action[kept]) - seen.log_prob_old[kept]).exp()
    worth = seen.advantage[kept]
    objective = torch.min(ratio * worth, ratio.clamp(0.8, 1.2) * worth).mean()
    (-objective - entropy_bonus * policy.entropy().mean()).backward()
    torch.nn.functional.mse_loss(critic(seen.state[kept]), seen.value_target[kept]).backward()
    for twin, network in ((actor, ppo.actor), (critic, ppo.critic)):
        norm = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]).norm()
        for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
            assert theirs.grad is not None
            scale = min(1.0, max_grad_norm / norm.item())
            torch.testing.assert_close(mine.grad, scale * theirs.grad, rtol=1e-4, atol=1e-8)
            # Adam's first step is the learning rate, against the sign of the gradient
            clear = theirs.grad.abs() * scale > 1e-6
            moved = (mine - theirs).detach()[clear]
            torch.testing.assert_close(moved, -1e-3 * theirs.grad.sign()[clear], rtol=0.02, atol=0)


def test_an_update_makes_rewarded_actions_likelier() -> None:
    ppo = make_ppo(epochs=10, actor_learning_rate=1e-2)
    seen = experience_of(ppo, torch.ones(64))
    worth = torch.where(seen.raw_action > -0.4, 1.0, -1.0)
    seen = Experience(
        seen.state, seen.raw_action, seen.log_prob_old, worth, seen.value_target, seen.mask
    )
    before = ppo.actor(seen.state).mean.mean()
    ppo.update(seen, generator())
    assert ppo.actor(seen.state).mean.mean() > before + 0.02


def test_every_row_is_seen_once_a_pass() -> None:
    ppo = make_ppo(epochs=3, minibatches=4)
    seen = experience_of(ppo, torch.ones(10))
    rows: list[Tensor] = []
    hook = ppo.actor.register_forward_pre_hook(lambda _, given: rows.append(given[0]))
    ppo.update(seen, generator())
    hook.remove()
    assert len(rows) == 12
    for start in (0, 4, 8):
        passed = torch.cat(rows[start : start + 4])
        assert torch.equal(passed.sort(dim=0).values, seen.state.sort(dim=0).values)
    assert not torch.equal(torch.cat(rows[:4]), torch.cat(rows[4:8]))


def test_nothing_to_learn_from_moves_no_fresh_weight() -> None:
    ppo = make_ppo()
    before = copy.deepcopy(ppo.actor.state_dict())
    ppo.update(experience_of(ppo, torch.ones(6), mask=torch.zeros(6)), generator())
    for name, weight in ppo.actor.state_dict().items():
        assert torch.equal(weight, before[name])
