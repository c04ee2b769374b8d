"""The distribution of T = T_max * sigmoid(u), u ~ N(mean, std^2), by scipy and differences."""

import math

from scipy.stats import norm


def cumulative(temperature: float, mean: float, std: float, max_temperature: float) -> float:
    """Return P(T <= temperature): u is monotone in T."""
    raw = math.log(temperature / (max_temperature - temperature))
    return float(norm.cdf((raw - mean) / std))


def density(temperature: float, mean: float, std: float, max_temperature: float) -> float:
    """Return the slope of the cumulative distribution, by a central difference."""
    width = 1e-5
    above = cumulative(temperature + width, mean, std, max_temperature)
    below = cumulative(temperature - width, mean, std, max_temperature)
    return (above - below) / (2 * width)


def quantile(level: float, mean: float, std: float, max_temperature: float) -> float:
    """Return the temperature below which T falls with this probability."""
    raw = mean + std * float(norm.ppf(level))
    return max_temperature / (1 + math.exp(-raw))
