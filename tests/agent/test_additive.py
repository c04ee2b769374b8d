import copy
import math

import torch
from torch import Tensor

from rlkd.agent.additive import AdditiveCorrector, exponents
from rlkd.agent.rollout import Rollout


def rollout_of(
    trajectories: int, *, steps: int = 16, seed: int = 0, signal: float = 1.0, noise: float = 0.0
) -> Rollout:
    """Random states and actions; odd trajectories are a quarter shorter."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.rand(trajectories, steps, 3, generator=generator)
    action = torch.rand(trajectories, steps, generator=generator) * 0.98 + 0.01
    mask = torch.ones(trajectories, steps)
    mask[1::2, 3 * steps // 4 :] = 0
    reward = 5 + signal * (contribution(state, action) * mask).sum(dim=1)
    reward = reward + noise * torch.randn(trajectories, generator=generator)
    return Rollout(state, torch.logit(action), mask, reward, reward)


def contribution(state: Tensor, action: Tensor) -> Tensor:
    """A cubic, whose mean over uniform inputs is 0.3/3 - 0.1 + 0.2/4 - 0.05 = 0."""
    uncertainty = state[..., 2]
    return 0.3 * action.square() - 0.1 + 0.2 * action * uncertainty - 0.05


def handed_out(corrector: AdditiveCorrector, rollout: Rollout) -> Tensor:
    start, predicted = corrector.predict(rollout)
    return torch.diff(torch.cat((start[:, None], predicted), dim=1), dim=1)


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((one, other)))[0, 1])


def test_features_are_all_products_up_to_the_degree() -> None:
    # monomials in 4 variables of degree 1, 2, 3: 4 + 10 + 20 = 34; of degree 1, 2: 14
    assert len(set(exponents(3))) == 34
    assert len(set(exponents(2))) == 14


def test_features_are_products_of_legendre_polynomials() -> None:
    # x = 2 * 0.75 - 1 = 0.5: sqrt(3) P1 = 0.8660254, sqrt(5) P2 = sqrt(5) (3/4 - 1) / 2
    # = -0.2795085, sqrt(7) P3 = sqrt(7) (5/8 - 3/2) / 2 = 2.6457513 * -0.4375 = -1.1575162
    state = torch.tensor([0.75, 0.5, 0.75]).expand(1, 1, 3)
    raw_action = torch.full((1, 1), math.log(3))
    one = torch.ones(1)
    corrector = AdditiveCorrector(degree=3, buffer=4)
    found = corrector.features(Rollout(state, raw_action, torch.ones(1, 1), one, one))[0, 0]
    expected = {
        (1, 0, 0, 0): 0.8660254,
        (0, 0, 0, 2): -0.2795085,
        (3, 0, 0, 0): -1.1575162,
        (0, 1, 0, 0): 0.0,
        (1, 0, 0, 2): 0.8660254 * -0.2795085,
        (1, 0, 1, 1): 0.8660254**3,
    }
    for powers, value in expected.items():
        assert abs(found[exponents(3).index(powers)] - value) < 1e-5


def test_contributions_are_recovered_from_the_rewards_of_whole_batches() -> None:
    corrector = AdditiveCorrector(buffer=128)
    corrector.fit(rollout_of(128))
    fresh = rollout_of(8, seed=1)
    found, true = (
        handed_out(corrector, fresh),
        contribution(fresh.state, torch.sigmoid(fresh.raw_action)),
    )
    inside = fresh.mask > 0
    assert correlation(found[inside], true[inside]) > 0.99
    assert corrector.trust > 0.99


def test_noisy_rewards_are_believed_less_than_clean_ones_and_more_than_pure_noise() -> None:
    # 16 contributions of standard deviation about 0.12 make sums of about 0.5
    trusts = []
    for signal, noise in ((1.0, 0.0), (1.0, 0.5), (0.0, 0.5)):
        corrector = AdditiveCorrector(buffer=128)
        corrector.fit(rollout_of(128, signal=signal, noise=noise))
        trusts.append(float(corrector.trust))
    assert trusts[0] > trusts[1] > trusts[2]


def test_rewards_without_signal_hand_out_next_to_nothing() -> None:
    corrector = AdditiveCorrector(buffer=256)
    rollout = rollout_of(256, signal=0.0, noise=1.0)
    corrector.fit(rollout)
    predicted = handed_out(corrector, rollout).sum(dim=1)
    assert predicted.std() < 0.2 * rollout.reward.std()


def test_equal_rewards_hand_out_nothing() -> None:
    corrector = AdditiveCorrector(buffer=32)
    rollout = rollout_of(16, signal=0.0)
    corrector.fit(rollout)
    assert handed_out(corrector, rollout).abs().max() < 1e-5


def test_a_drift_of_the_rewards_is_not_taken_for_a_contribution() -> None:
    # the action grows with age, and so does the reward, for reasons of its own
    corrector, steady = AdditiveCorrector(buffer=64), rollout_of(64, signal=0.0)
    age = torch.linspace(-1, 1, 64)
    raw_action = torch.randn(64, 16) + age[:, None]
    noise = 1e-2 * torch.randn(64)
    drifting = Rollout(steady.state, raw_action, steady.mask, age + noise, age + noise)
    corrector.fit(drifting)
    assert handed_out(corrector, drifting).sum(dim=1).std() < 0.1 * age.std()


def test_predictions_are_a_running_sum_that_stops_with_the_trajectory() -> None:
    corrector, rollout = AdditiveCorrector(buffer=32), rollout_of(32)
    corrector.fit(rollout)
    start, predicted = corrector.predict(rollout)
    assert torch.allclose(start, rollout.reward.mean().expand(32))
    assert (predicted[1::2, 11:] == predicted[1::2, 11:12]).all()
    assert (predicted[::2, 12:] != predicted[::2, 11:12]).any()
    alone = corrector.predict(
        Rollout(rollout.state[:, :1], rollout.raw_action[:, :1], rollout.mask[:, :1], start, start)
    )[1]
    assert torch.allclose(alone[:, 0], predicted[:, 0], atol=1e-6)


def test_instances_have_no_order() -> None:
    rollout = rollout_of(32)
    order = torch.arange(15, -1, -1)
    turned = Rollout(
        rollout.state[:, order],
        rollout.raw_action[:, order],
        rollout.mask[:, order],
        rollout.raw_reward,
        rollout.reward,
    )
    one, other = AdditiveCorrector(buffer=32), AdditiveCorrector(buffer=32)
    one.fit(rollout)
    other.fit(turned)
    found = handed_out(other, turned)[:, order]
    assert torch.allclose(handed_out(one, rollout), found, atol=1e-4)


def test_the_oldest_trajectories_are_forgotten_first() -> None:
    corrector, recent = AdditiveCorrector(buffer=32), AdditiveCorrector(buffer=32)
    corrector.fit(rollout_of(24, seed=5))
    corrector.fit(rollout_of(32, seed=6))
    recent.fit(rollout_of(32, seed=6))
    assert torch.equal(corrector.coefficients, recent.coefficients)


def test_a_restored_corrector_goes_on_exactly() -> None:
    corrector = AdditiveCorrector(buffer=32)
    corrector.fit(rollout_of(8))
    restored = AdditiveCorrector(buffer=32)
    restored.load_state_dict(copy.deepcopy(corrector.state_dict()))
    for each in (corrector, restored):
        each.fit(rollout_of(8, seed=1))
    probe = rollout_of(4, seed=2)
    assert torch.equal(corrector.predict(probe)[1], restored.predict(probe)[1])
    assert torch.equal(corrector.trust, restored.trust)


def test_a_first_trajectory_alone_hands_out_nothing_and_is_not_believed() -> None:
    corrector, rollout = AdditiveCorrector(buffer=8), rollout_of(1)
    corrector.fit(rollout)
    start, predicted = corrector.predict(rollout)
    assert torch.allclose(predicted, start[:, None].expand_as(predicted))
    assert corrector.trust == 0


def test_trajectories_without_instances_leave_the_fit_as_it_is() -> None:
    with_empty, without = AdditiveCorrector(buffer=64), AdditiveCorrector(buffer=64)
    rollout = rollout_of(32)
    empty = rollout_of(1)
    empty = Rollout(empty.state, empty.raw_action, 0 * empty.mask, empty.reward, 99 + empty.reward)
    for each in (with_empty, without):
        each.fit(rollout)
    with_empty.fit(empty)
    assert torch.isfinite(with_empty.coefficients).all()
    assert torch.allclose(with_empty.coefficients, without.coefficients, atol=1e-4)
