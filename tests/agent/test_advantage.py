import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from tests.reference.gae_loop import advantages_slowly

from rlkd.agent.advantage import discounted_sum, generalised_advantage, standardise

GAMMA_LAMBDA = [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.95), (0.0, 0.0), (0.5, 0.8)]


def test_returns_by_hand() -> None:
    # 1 + 0.5 * 2 + 0.25 * 4 = 3; 2 + 0.5 * 4 = 4; 4
    found = discounted_sum(torch.tensor([[1.0, 2.0, 4.0]]), 0.5)
    assert found.tolist() == [[3.0, 4.0, 4.0]]


def test_returns_without_discount_are_the_rest_of_the_sum() -> None:
    assert discounted_sum(torch.tensor([[1.0, 2.0, 4.0]]), 1.0).tolist() == [[7.0, 6.0, 4.0]]


@pytest.mark.parametrize("steps", [255, 256, 257, 700])
@pytest.mark.parametrize("discount", [0.99, 1.0])
def test_returns_of_many_steps_are_those_of_a_recursion(steps: int, discount: float) -> None:
    values = torch.randn(2, steps, dtype=torch.float64)
    expected, after = torch.zeros_like(values), torch.zeros(2, dtype=torch.float64)
    for step in reversed(range(steps)):
        after = expected[:, step] = values[:, step] + discount * after
    torch.testing.assert_close(discounted_sum(values, discount), expected)


def test_returns_of_the_bandit_are_the_rewards() -> None:
    rewards = torch.randn(3, 5)
    assert torch.equal(discounted_sum(rewards, 0.0), rewards)


def test_advantages_by_hand() -> None:
    # gamma 0.5, lambda 0.5; r = (1, 2), V = (4, 2): delta = (1 + 1 - 4, 2 - 2) = (-2, 0)
    # A = (-2 + 0.25 * 0, 0), the critic's targets A + V = (2, 2)
    advantage, target = generalised_advantage(
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[4.0, 2.0]]),
        torch.ones(1, 2),
        discount=0.5,
        gae_lambda=0.5,
    )
    assert advantage.tolist() == [[-2.0, 0.0]]
    assert target.tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize(("discount", "gae_lambda"), GAMMA_LAMBDA)
def test_advantages_equal_those_of_stable_baselines3(discount: float, gae_lambda: float) -> None:
    trajectories, steps = 5, 64
    reward, value = torch.randn(trajectories, steps), torch.randn(trajectories, steps)
    buffer = RolloutBuffer(
        steps,
        spaces.Box(0, 1, (3,)),
        spaces.Box(0, 10, (1,)),
        device="cpu",
        gamma=discount,
        gae_lambda=gae_lambda,
        n_envs=trajectories,
    )
    buffer.rewards[:], buffer.values[:] = reward.T.numpy(), value.T.numpy()
    buffer.compute_returns_and_advantage(
        torch.full((trajectories,), 123.0), dones=torch.ones(trajectories).numpy()
    )
    advantage, target = generalised_advantage(
        reward, value, torch.ones_like(reward), discount=discount, gae_lambda=gae_lambda
    )
    theirs = (torch.from_numpy(buffer.advantages).T, torch.from_numpy(buffer.returns).T)
    torch.testing.assert_close(advantage, theirs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(target, theirs[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("discount", "gae_lambda"), GAMMA_LAMBDA)
def test_each_trajectory_ends_after_its_own_last_step(discount: float, gae_lambda: float) -> None:
    lengths = [6, 1, 4]
    mask = (torch.arange(6) < torch.tensor(lengths)[:, None]).float()
    reward, value = torch.randn(3, 6) * mask, torch.randn(3, 6)  # the critic fills all cells
    advantage, target = generalised_advantage(
        reward, value, mask, discount=discount, gae_lambda=gae_lambda
    )
    slow = advantages_slowly(reward, value, lengths, discount=discount, gae_lambda=gae_lambda)
    for row, length in enumerate(lengths):
        expected = torch.tensor(slow[row])
        torch.testing.assert_close(advantage[row, :length], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            target[row, :length], expected + value[row, :length], rtol=1e-5, atol=1e-5
        )
    assert (advantage[mask == 0] == 0).all()
    assert (target[mask == 0] == 0).all()


def test_the_bandit_form_is_reward_minus_value() -> None:
    reward, value = torch.randn(2, 7), torch.randn(2, 7)
    advantage, target = generalised_advantage(
        reward, value, torch.ones(2, 7), discount=0.0, gae_lambda=0.0
    )
    assert torch.equal(advantage, reward - value)
    torch.testing.assert_close(target, reward)


def test_standardising_centres_and_scales_what_is_in_the_mask() -> None:
    # in the mask: 1, 3, 5, of mean 3 and standard deviation sqrt(8/3)
    values = torch.tensor([[1.0, 3.0, 0.0], [5.0, 0.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    unit = 2 / (8 / 3) ** 0.5
    expected = torch.tensor([[-unit, 0.0, 0.0], [unit, 0.0, 0.0]])
    torch.testing.assert_close(standardise(values, mask), expected)


@pytest.mark.parametrize("constant", [0.0, 0.1, -0.7, 1 / 3, 0.0123, 1e-6, 250.0])
@pytest.mark.parametrize("steps", [1, 3, 7, 64, 100, 512])
def test_equal_values_become_zero_whatever_the_rounding_of_their_mean(
    constant: float, steps: int
) -> None:
    values = torch.full((8, steps), constant)
    assert standardise(values, torch.ones(8, steps)).abs().max() == 0


def test_small_values_are_standardised_like_large_ones() -> None:
    values, mask = torch.randn(4, 16), torch.ones(4, 16)
    torch.testing.assert_close(standardise(1e-7 * values, mask), standardise(values, mask))


def test_an_empty_mask_gives_zeros() -> None:
    assert standardise(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2
