import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import kstest, norm
from tests.reference.squashed_gaussian import cumulative, density
from torch import Tensor
from torch.distributions import Normal, SigmoidTransform, TransformedDistribution
from torch.distributions.transforms import AffineTransform

from rlkd.agent.actor_critic import Actor, Critic
from rlkd.temperature import TEMPERATURE_FLOOR
from rlkd.temperature.bounded_gaussian import BoundedGaussian, raw_from_temperature

POLICIES = [(-0.4, 0.5), (0.0, 1.0), (1.5, 0.2), (-2.0, 2.0)]


def policy(mean: float, std: float, *, max_temperature: float = 10.0) -> BoundedGaussian:
    one = torch.ones(1, dtype=torch.float64)
    return BoundedGaussian(mean * one, std * one, max_temperature)


def raw(temperature: float, max_temperature: float = 10.0) -> Tensor:
    u = math.log(temperature / (max_temperature - temperature))
    return torch.tensor([u], dtype=torch.float64)


def test_the_squash_by_hand() -> None:
    # 10 sigmoid(0) = 5; 10 sigmoid(ln(2/3)) = 10 * 2/5 = 4
    u = torch.tensor([0.0, math.log(2 / 3)])
    given = BoundedGaussian(u, torch.ones(2), 10.0).temperature(u)
    torch.testing.assert_close(given, torch.tensor([5.0, 4.0]))
    assert raw_from_temperature(4.0, 10.0) == pytest.approx(math.log(2 / 3), rel=1e-12)


def test_temperatures_lie_above_the_floor_and_below_their_bound() -> None:
    u = torch.linspace(-12, 12, 1001)
    given = BoundedGaussian(u, torch.ones_like(u), 10.0).temperature(u)
    assert given.min() == TEMPERATURE_FLOOR == 0.05
    assert given.max() < 10
    assert (given.diff() >= 0).all()


def test_even_the_greatest_raw_action_stays_below_the_bound() -> None:
    u = torch.tensor([17.0, 40.0, 1e4])
    assert (BoundedGaussian(u, torch.ones_like(u), 10.0).temperature(u) < 10).all()


@pytest.mark.parametrize(("mean", "std"), POLICIES)
def test_the_density_of_the_temperature_integrates_to_one(mean: float, std: float) -> None:
    given = policy(mean, std)

    def p(temperature: float) -> float:
        return given.log_density(raw(temperature)).exp().item()

    ends = (1e-9, 10 - 1e-9)
    knots = [0.01, 0.1, 1.0, 5.0, 9.0, 9.9, 9.99]
    mass, _ = quad(p, *ends, points=knots, limit=300)
    assert mass == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(("mean", "std"), POLICIES)
@pytest.mark.parametrize("temperature", [0.7, 4.0, 8.9])
def test_the_density_is_the_slope_of_the_cumulative_distribution(
    mean: float, std: float, temperature: float
) -> None:
    found = policy(mean, std).log_density(raw(temperature)).exp().item()
    expected = density(temperature, mean, std, 10.0)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_the_density_equals_that_of_torchs_own_transforms() -> None:
    given, u = policy(-0.4, 0.5, max_temperature=7.0), raw(2.0, 7.0)
    own = TransformedDistribution(
        Normal(given.mean, given.std), [SigmoidTransform(), AffineTransform(0.0, 7.0)]
    )
    torch.testing.assert_close(given.log_density(u), own.log_prob(7 * torch.sigmoid(u)))


def test_the_log_probability_and_the_entropy_are_those_of_a_normal() -> None:
    given, u = policy(0.3, 0.7), torch.tensor([1.1], dtype=torch.float64)
    assert given.log_prob(u).item() == pytest.approx(norm.logpdf(1.1, 0.3, 0.7), rel=1e-12)
    assert given.entropy().item() == pytest.approx(norm.entropy(0.3, 0.7), rel=1e-12)


def test_the_ratio_of_two_policies_is_the_same_for_raw_action_and_temperature() -> None:
    old, new, u = policy(-0.4, 0.5), policy(0.1, 0.8), raw(3.0)
    of_raw = (new.log_prob(u) - old.log_prob(u)).exp()
    of_temperature = (new.log_density(u) - old.log_density(u)).exp()
    torch.testing.assert_close(of_raw, of_temperature, rtol=1e-12, atol=0)


def test_samples_follow_the_distribution() -> None:
    rows = torch.full((3000,), -0.4)
    given = BoundedGaussian(rows, torch.full_like(rows, 0.5), 10.0)
    drawn = given.temperature(given.sample(torch.Generator().manual_seed(1))).double().numpy()

    def distribution(values: np.ndarray) -> np.ndarray:
        return np.array([cumulative(value, -0.4, 0.5, 10.0) for value in values.tolist()])

    assert kstest(drawn, distribution).pvalue > 0.01


def test_each_row_is_drawn_from_its_own_gaussian() -> None:
    mean, std = torch.tensor([-3.0, 0.0, 3.0]), torch.tensor([1e-4, 1e-4, 1e-4])
    drawn = BoundedGaussian(mean, std, 10.0).sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, mean, rtol=0, atol=1e-3)
    assert (drawn != mean).all()


@pytest.mark.parametrize("base", [0.5, 4.0, 9.0])
def test_every_state_starts_at_the_base_temperature(base: float) -> None:
    actor = Actor(base_temperature=base, max_temperature=10.0, initial_std=0.5, hidden=16)
    given = actor(torch.rand(200, 3))
    torch.testing.assert_close(given.temperature(given.mean), torch.full((200,), base))
    torch.testing.assert_close(given.std, torch.full((200,), 0.5))


def test_mean_and_spread_both_depend_on_the_state() -> None:
    actor = Actor(base_temperature=4.0, max_temperature=10.0, initial_std=0.5, hidden=16)
    for parameter in actor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    given = actor(torch.rand(50, 3))
    assert given.mean.std() > 1e-3
    assert given.std.std() > 1e-3
    assert (given.std > 0).all()


def test_the_actor_learns_from_its_first_gradient() -> None:
    # A head of zero weight must still get a gradient that differs from state to state.
    actor = Actor(base_temperature=4.0, max_temperature=10.0, initial_std=0.5, hidden=16)
    given = actor(torch.rand(20, 3))
    given.log_prob(torch.randn(20)).sum().backward()
    head = [parameter.grad for parameter in actor.parameters()][-2]
    assert head is not None
    assert head.abs().max() > 1e-3


def test_the_critic_gives_one_value_a_state() -> None:
    critic = Critic(hidden=8)
    assert critic(torch.rand(6, 3)).shape == (6,)
    assert critic(torch.rand(4, 6, 3)).shape == (4, 6)
