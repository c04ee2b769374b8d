"""Where gradients accumulate, a reward and its trajectory are those of the whole batch."""

import pytest
import torch
from tests.agent.loop import Logits, logits_of, make_agent, scored, spy_on_learning
from torch.testing import assert_close

from rlkd.agent import TemperatureAgent
from rlkd.errors import UserError

STEPS = 9


def halves(seen: Logits) -> list[Logits]:
    """The two passes of a batch of 8."""
    return [
        Logits(seen.student[rows], seen.teacher[rows], seen.target[rows])
        for rows in (slice(4), slice(4, 8))
    ]


def step(agent: TemperatureAgent, passes: list[Logits], after: Logits) -> None:
    for each in passes:
        agent(each.student, each.teacher, each.target)
    if agent.observation_due:
        agent.observe(agent.performance(after.student, after.target))


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
@pytest.mark.parametrize("source", ["next_batch", "probe"])
def test_trajectories_and_rewards_are_those_of_the_whole_batch(
    source: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"reward_source": source, "metric": metric, "probe_interval": 2}
    whole, split = make_agent(**options), make_agent(**options)
    split.share_update(2)
    learnt = spy_on_learning(whole, monkeypatch), spy_on_learning(split, monkeypatch)
    for batch in range(STEPS):
        seen, after = logits_of(batch), logits_of(1000 + batch)
        step(whole, [seen], after)
        step(split, halves(seen), after)
    # next_batch: 8 closed trajectories; probe: 4, after the step that was measured first.
    assert len(learnt[0]) == len(learnt[1]) == (4 if source == "next_batch" else 2)
    for one, other in zip(*learnt, strict=True):
        assert_close(other.state, one.state)
        assert_close(other.mask, one.mask)
        assert_close(other.raw_reward, one.raw_reward)
    assert any(one.raw_reward.abs().sum() > 0 for one in learnt[0])


def test_a_reward_counts_the_passes_of_both_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(reward_source="next_batch", update_interval=1, gate=False)
    agent.share_update(2)
    learnt = spy_on_learning(agent, monkeypatch)
    for correct in (2, 4, 7, 5):  # of 8 each: 6 of 16 are right in step 1, 12 of 16 in step 2
        seen = scored(correct)
        agent(seen.student, seen.teacher, seen.target)
    (rollout,) = learnt
    assert rollout.raw_reward.tolist() == [6 / 16]
    assert rollout.mask.sum() == 16


def test_measuring_the_batch_again_is_refused_for_several_passes() -> None:
    agent = make_agent(reward_source="same_batch")
    agent.share_update(1)
    with pytest.raises(UserError, match=r"of the 2 passes.*choose next_batch or probe"):
        agent.share_update(2)


def test_all_rows_get_a_temperature_in_every_pass() -> None:
    agent = make_agent(reward_source="probe", probe_interval=2)
    agent.share_update(2)
    for part in halves(logits_of(0)):
        given = agent(part.student, part.teacher, part.target).student
        assert given.shape == (4,)
        assert torch.all(given > 0)
