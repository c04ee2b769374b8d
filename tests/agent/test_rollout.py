import pytest
import torch

from rlkd.agent.rollout import Rollout, Trajectory, Window, state_and_action


def state(*rows: float) -> torch.Tensor:
    return torch.tensor(rows)[:, None].expand(-1, 3).clone()


def trajectory(*rows: float, reward: float) -> Trajectory:
    values = torch.tensor(rows)
    return Trajectory(
        state=state(*rows),
        raw_action=values,
        mask=torch.ones_like(values),
        raw_reward=torch.tensor(2 * reward),
        reward=torch.tensor(reward),
    )


def test_the_reward_is_the_gain_times_the_gate() -> None:
    window = Window(performance_before=torch.tensor(0.25))
    window.add(state(0.1, 0.2), torch.tensor([1.0, 2.0]), torch.ones(2).bool())
    closed = window.close(torch.tensor(0.75), gate=0.6)
    assert closed is not None
    assert closed.raw_reward == 0.5
    torch.testing.assert_close(closed.reward.item(), 0.3)


def test_without_a_measurement_before_there_is_no_reward() -> None:
    window = Window()
    window.add(state(0.1), torch.tensor([1.0]), torch.ones(1).bool())
    assert window.close(torch.tensor(1.0), gate=1.0) is None


def test_without_an_action_there_is_no_reward() -> None:
    assert Window(performance_before=torch.tensor(0.0)).close(torch.tensor(1.0), gate=1.0) is None


def test_rows_not_learnt_from_go_to_the_end_and_the_others_keep_their_order() -> None:
    window = Window(performance_before=torch.tensor(0.0))
    chosen = torch.tensor([False, True, False, True])
    window.add(state(0.1, 0.2, 0.3, 0.4), torch.tensor([1.0, 2.0, 3.0, 4.0]), chosen)
    window.add(state(0.5, 0.6), torch.tensor([5.0, 6.0]), torch.ones(2).bool())
    closed = window.close(torch.tensor(1.0), gate=1.0)
    assert closed is not None
    assert closed.raw_action.tolist() == [2.0, 4.0, 5.0, 6.0, 1.0, 3.0]
    assert closed.mask.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    torch.testing.assert_close(closed.state, state(0.2, 0.4, 0.5, 0.6, 0.1, 0.3))


def test_a_window_gathers_batches_until_it_is_closed() -> None:
    window = Window(performance_before=torch.tensor(0.0))
    for _ in range(3):
        window.add(state(0.1), torch.tensor([1.0]), torch.ones(1).bool())
    assert window.batches == 3
    closed = window.close(torch.tensor(1.0), gate=1.0)
    assert closed is not None
    assert len(closed.mask) == 3


def test_shorter_trajectories_are_filled_up_outside_the_mask() -> None:
    rollout = Rollout.stack([trajectory(0.1, 0.2, 0.3, reward=1.0), trajectory(0.4, reward=2.0)])
    assert rollout.mask.tolist() == [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    torch.testing.assert_close(rollout.state[0], state(0.1, 0.2, 0.3))
    torch.testing.assert_close(rollout.raw_action[1], torch.tensor([0.4, 0.0, 0.0]))
    assert rollout.reward.tolist() == [1.0, 2.0]
    assert rollout.raw_reward.tolist() == [2.0, 4.0]
    assert rollout.steps.tolist() == [3.0, 1.0]


def test_a_trajectory_with_nothing_to_learn_from_divides_by_no_zero() -> None:
    nothing = trajectory(0.1, reward=1.0)
    rollout = Rollout.stack([nothing])
    empty = Rollout(
        rollout.state,
        rollout.raw_action,
        torch.zeros_like(rollout.mask),
        rollout.raw_reward,
        rollout.reward,
    )
    assert empty.steps.tolist() == [1.0]


def test_the_corrector_reads_the_action_as_a_fraction_of_the_bound() -> None:
    rollout = Rollout.stack([trajectory(0.0, 0.5, reward=1.0)])
    joined = state_and_action(rollout)
    torch.testing.assert_close(joined[0, 0], torch.tensor([0.0, 0.0, 0.0, 0.5]))
    assert joined[0, 1, 3].item() == pytest.approx(0.62245933, rel=1e-6)


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("batches", [0, 2])
def test_a_window_survives_a_checkpoint(measured: bool, batches: int) -> None:
    window = Window(performance_before=torch.tensor(0.25) if measured else None)
    for number in range(batches):
        window.add(torch.rand(2, 3), torch.randn(2), torch.tensor([number == 0, True]))
    restored = Window.from_tensors(window.tensors(), batches=window.batches)
    assert restored.batches == batches
    pair = [each.close(torch.tensor(1.0), gate=0.5) for each in (window, restored)]
    if not (measured and batches):
        assert pair == [None, None]
        return
    assert pair[0] is not None
    assert pair[1] is not None
    for name, tensor in pair[0].tensors().items():
        assert torch.equal(tensor, pair[1].tensors()[name])
