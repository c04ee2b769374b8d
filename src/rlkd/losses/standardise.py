"""Logit standardisation, the transform."""

import torch
from jaxtyping import Float
from torch import Tensor

from rlkd.checks import check_logits, float32_or_better, spread, unmasked


def standardise(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    """Return the z-score of each row, in float32 or better: mean 0, standard deviation 1.

    For a loop of one's own, before any loss on logits: `kd(standardise(z_s), standardise(z_t),
    2.0)`. In training the temperature source of the same name does it: z-scores at tau are the
    logits themselves at tau * (std + 1e-7), since a shift changes no softmax.

    Args:
        logits: two classes or more; those of -inf are masked, and stay so.

    Raises:
        ValueError: see `checks.check_logits`.

    Source: Sun et al., "Logit Standardization in Knowledge Distillation" (CVPR 2024), algorithm 1;
    the released code's unbiased standard deviation, plus 1e-7.
    """
    check_logits(logits)
    logits = float32_or_better(logits)
    filled, _ = unmasked(logits)
    scores = (filled - filled.mean(dim=1, keepdim=True)) / (spread(logits)[:, None] + 1e-7)
    # Masked last: through -inf itself no gradient would be a number.
    return scores if filled is logits else scores.masked_fill(logits == -torch.inf, -torch.inf)
