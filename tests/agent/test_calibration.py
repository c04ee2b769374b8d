import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.redistribute_loop import redistribute_slowly
from torch import Tensor

from rlkd.agent.calibration import StateUpdater, corrector_loss, redistribute
from rlkd.agent.recurrent import RecurrentCorrector
from rlkd.agent.rollout import Rollout


def rollout_of(reward: list[float], lengths: list[int], *, seed: int = 0) -> Rollout:
    generator = torch.Generator().manual_seed(seed)
    steps, rows = max(lengths), len(lengths)
    mask = (torch.arange(steps) < torch.tensor(lengths)[:, None]).float()
    return Rollout(
        state=torch.rand(rows, steps, 3, generator=generator),
        raw_action=torch.randn(rows, steps, generator=generator),
        mask=mask,
        raw_reward=torch.tensor(reward),
        reward=torch.tensor(reward),
    )


PREDICTED = torch.tensor([[0.1, 0.3, 0.2], [0.5, 0.4, 9.0]])
ROLLOUT = rollout_of([0.4, 0.1], [3, 2])


@pytest.mark.parametrize(
    ("alpha", "beta", "scale", "expected"),
    [
        # first: (0.2 - 0.4)^2 = 0.04, then (0.09 + 0.01 + 0.04) / 3 = 0.14 / 3
        # second, whose third step is masked: (0.4 - 0.1)^2 = 0.09, then (0.16 + 0.09) / 2 = 0.125
        (1.0, 0.5, 1.0, ((0.04 + 0.07 / 3) + (0.09 + 0.0625)) / 2),
        (2.0, 0.0, 1.0, (0.08 + 0.18) / 2),
        (0.0, 1.0, 1.0, (0.14 / 3 + 0.125) / 2),
        (1.0, 0.5, 0.5, 4 * ((0.04 + 0.07 / 3) + (0.09 + 0.0625)) / 2),
    ],
)
def test_the_correctors_loss_by_hand(
    alpha: float, beta: float, scale: float, expected: float
) -> None:
    found = corrector_loss(PREDICTED, ROLLOUT, alpha=alpha, beta=beta, scale=scale)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_perfect_corrector_has_no_loss() -> None:
    predicted = ROLLOUT.reward[:, None].expand(2, 3)
    assert corrector_loss(predicted, ROLLOUT, alpha=1.0, beta=0.5) == 0


def test_redistribution_by_hand() -> None:
    # g: 0, 0.1, 0.3, 0.2: differences 0.1, 0.2, -0.1 sum to 0.2; 0.2 of 0.4 is missing, a third
    # each. g: 0.2, 0.5, 0.4: 0.3, -0.1; 0.1 - 0.2 = -0.1 is too much, half each.
    found = redistribute(torch.tensor([0.0, 0.2]), PREDICTED, ROLLOUT)
    third = 0.2 / 3
    expected = [[0.1 + third, 0.2 + third, -0.1 + third], [0.25, -0.15, 0.0]]
    torch.testing.assert_close(found, torch.tensor(expected))


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(0, 64), min_size=1, max_size=6),
    seed=st.integers(0, 10**6),
)
def test_whatever_the_prediction_the_rewards_sum_to_the_batchs(
    lengths: list[int], seed: int
) -> None:
    lengths = [*lengths, 5]
    generator = torch.Generator().manual_seed(seed)
    reward = (2 * torch.rand(len(lengths), generator=generator) - 1).tolist()
    rollout = rollout_of(reward, lengths, seed=seed)
    start = torch.randn(len(lengths), generator=generator)
    predicted = torch.randn(rollout.mask.shape, generator=generator)
    found = redistribute(start, predicted, rollout)
    paid = torch.tensor(lengths) > 0
    torch.testing.assert_close(found.sum(dim=1)[paid], rollout.reward[paid], rtol=0, atol=1e-5)
    assert (found[rollout.mask == 0] == 0).all()
    for row, length in enumerate(lengths):
        if length:
            slow = redistribute_slowly(
                start[row].item(), predicted[row, :length].tolist(), reward[row]
            )
            torch.testing.assert_close(found[row, :length], torch.tensor(slow), rtol=0, atol=1e-5)


def test_a_prediction_of_nothing_spreads_the_reward_evenly() -> None:
    found = redistribute(torch.zeros(2), torch.zeros(2, 3), ROLLOUT)
    third = 0.4 / 3
    torch.testing.assert_close(found, torch.tensor([[third, third, third], [0.05, 0.05, 0.0]]))


def test_only_differences_of_predictions_matter() -> None:
    start = torch.tensor([0.0, 0.2])
    torch.testing.assert_close(
        redistribute(start, PREDICTED, ROLLOUT), redistribute(start + 5, PREDICTED + 5, ROLLOUT)
    )


def test_predictions_outside_the_mask_do_not_matter() -> None:
    moved = PREDICTED.clone()
    moved[1, 2] = -77.0
    start = torch.zeros(2)
    assert torch.equal(redistribute(start, PREDICTED, ROLLOUT), redistribute(start, moved, ROLLOUT))
    assert corrector_loss(PREDICTED, ROLLOUT, alpha=1.0, beta=0.5) == corrector_loss(
        moved, ROLLOUT, alpha=1.0, beta=0.5
    )


@pytest.fixture
def updater() -> StateUpdater:
    return StateUpdater(hidden=8, learning_rate=1e-2, iterations=10)


def test_the_updated_state_is_the_state_times_a_weight_between_0_and_1(
    updater: StateUpdater,
) -> None:
    for parameter in updater.weight.parameters():
        torch.nn.init.normal_(parameter)
    state = 0.01 + 0.99 * torch.rand(300, 3)
    weight = updater(state) / state
    assert weight.min() > 0
    assert weight.max() < 1
    torch.testing.assert_close(weight, torch.sigmoid(updater.weight(state)))
    assert weight.std(dim=0).min() > 1e-3  # it depends on the state


def test_the_weights_start_near_one(updater: StateUpdater) -> None:
    # sigmoid(3) = 0.95257413
    state = torch.rand(20, 3)
    torch.testing.assert_close(updater(state), 0.95257413 * state)


def test_the_updaters_loss_by_hand(updater: StateUpdater) -> None:
    # m = 1/2 everywhere, the estimator is s'_1 + 2 s'_2 + 3 s'_3.
    last = updater.weight[-1]
    torch.nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in updater.estimator.parameters():
            parameter.zero_()
        first, _, second = updater.estimator
        first.weight[:3] = torch.eye(3)  # pyright: ignore[reportIndexIssue]
        second.weight[0, :3] = torch.tensor([1.0, 2.0, 3.0])  # pyright: ignore[reportIndexIssue]
    state = torch.tensor([[[0.2, 0.4, 0.6], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])
    # estimates: (0.2 + 0.8 + 1.8) / 2 = 1.4 and 0.5; returns 1 and 1; the third is masked
    found = updater.loss(state, torch.ones(1, 3), torch.tensor([[1.0, 1.0, 0.0]]))
    assert found.item() == pytest.approx((0.16 + 0.25) / 2, rel=1e-5)


def test_fitting_lowers_the_updaters_loss_and_moves_both_networks(updater: StateUpdater) -> None:
    state = torch.rand(4, 16, 3)
    target, mask = 3 * state[..., 0] - state[..., 2], torch.ones(4, 16)
    weight, estimator = (
        [parameter.detach().clone() for parameter in network.parameters()]
        for network in (updater.weight, updater.estimator)
    )
    losses = [updater.fit(state, target, mask).item() for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    assert any(map(differs, weight, updater.weight.parameters()))
    assert any(map(differs, estimator, updater.estimator.parameters()))


def differs(before: Tensor, after: Tensor) -> bool:
    return not torch.equal(before, after)


def test_the_recurrent_corrector_reads_a_batch_in_order() -> None:
    corrector, rollout = RecurrentCorrector(), rollout_of([0.4, 0.1], [6, 6])
    _, before = corrector.predict(rollout)
    moved = rollout.raw_action.clone()
    moved[:, 2] += 3
    _, after = corrector.predict(
        Rollout(rollout.state, moved, rollout.mask, rollout.raw_reward, rollout.reward)
    )
    assert torch.equal(before[:, :2], after[:, :2])  # nothing is known of what comes later
    assert ((before[:, 2:] - after[:, 2:]).abs() > 1e-6).all()  # all later steps remember


def test_constant_rewards_leave_the_recurrent_corrector_finite() -> None:
    corrector, rollout = RecurrentCorrector(), rollout_of([0.1] * 7, [4] * 7)
    corrector.fit(rollout)
    start, predicted = corrector.predict(rollout)
    assert torch.isfinite(redistribute(start, predicted, rollout)).all()
    assert math.isfinite(corrector.loss(rollout).item())
