"""The redistribution of one reward over a trajectory, step by step, in Python floats."""


def redistribute_slowly(start: float, predicted: list[float], reward: float) -> list[float]:
    """Return r'_i = g_i - g_{i-1} plus an equal share of what is missing to the reward."""
    shares: list[float] = []
    before = start
    for now in predicted:
        shares.append(now - before)
        before = now
    missing = reward - sum(shares)
    return [share + missing / len(shares) for share in shares]
