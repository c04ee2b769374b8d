"""Generalised advantage estimation by its recursion, backwards in time, in Python floats."""

from torch import Tensor


def advantages_slowly(
    reward: Tensor, value: Tensor, steps: list[int], *, discount: float, gae_lambda: float
) -> list[list[float]]:
    """Return the advantages of each trajectory's own steps; it ends after the last of them."""
    done: list[list[float]] = []
    for rewards, values, count in zip(reward.tolist(), value.tolist(), steps, strict=True):
        advantage, next_value, found = 0.0, 0.0, [0.0] * count
        for i in reversed(range(count)):
            delta = rewards[i] + discount * next_value - values[i]
            advantage = delta + discount * gae_lambda * advantage
            found[i], next_value = advantage, values[i]
        done.append(found)
    return done
