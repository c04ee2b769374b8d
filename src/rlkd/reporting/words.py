"""Figures in words, as every table writes them."""

import math

UNKNOWN = "n/a"


def percent(fraction: float) -> str:
    """Write a fraction in per cent, two decimals."""
    return f"{100 * fraction:.2f}" if math.isfinite(fraction) else UNKNOWN


def sentence(words: str) -> str:
    """Begin words with a capital letter; all other letters stay as they are."""
    return words[:1].upper() + words[1:]
