"""Efficient exploration: entropy ranking and mix-up."""

from rlkd.exploration.entropy import Bands, EntropyRecord, Ranking, predictive_entropy, rank
from rlkd.exploration.explorer import Explored, Explorer
from rlkd.exploration.mixup import mix

__all__ = [
    "Bands",
    "EntropyRecord",
    "Explored",
    "Explorer",
    "Ranking",
    "mix",
    "predictive_entropy",
    "rank",
]
