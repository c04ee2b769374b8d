"""Figures of an epoch, summed on the device and read once at its end."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlkd import distributed
from rlkd.agent import instance_state
from rlkd.reporting import PolicyMap
from rlkd.temperature.recorded import MEAN, QUANTILES, quantile_column
from rlkd.types import IGNORED, Temperatures, class_index

_FIRST, _BINS = 119 << 7, 32 << 7
"""The bit pattern of 2^-8 in bfloat16, and how many patterns follow up to 2^24: 128 an octave."""
_POLICY_BINS = 10


class EpochMeters(nn.Module):
    """Loss and its terms, accuracy, the distribution of temperatures and the policy of an epoch.

    Nothing here waits for the device but the methods whose name says `read`. Each rank counts its
    own rows; what is read is of all ranks, which read together.

    Quantiles are of temperatures rounded to bfloat16, each counted: they are within 1/256 (0.4 %)
    of the exact ones from T = 2^-8, below the lowest there is, to 2^24; what lies above counts
    there. Mean and standard deviation are exact.

    Args:
        terms: the names of the terms that the loss is the sum of.
    """

    totals: Tensor
    term_totals: Tensor
    histogram: Tensor
    bad_rows: Tensor
    """How many rows of the teacher's and of the student's logits were not finite."""
    policy_sum: Tensor
    policy_count: Tensor

    def __init__(self, terms: Iterable[str] = ()) -> None:
        super().__init__()
        self.terms = tuple(terms)
        # In float32 a count of ones stops at 2^24, and an epoch of COCO has 60 million regions.
        self.register_buffer("totals", torch.zeros(6, dtype=torch.float64))
        self.register_buffer("term_totals", torch.zeros(len(self.terms), dtype=torch.float64))
        self.register_buffer("histogram", torch.zeros(_BINS, dtype=torch.int64))
        self.register_buffer("bad_rows", torch.zeros(2, dtype=torch.int64))
        self.register_buffer("policy_sum", torch.zeros(_POLICY_BINS**2, dtype=torch.float64))
        self.register_buffer("policy_count", torch.zeros(_POLICY_BINS**2, dtype=torch.int64))
        self.figures: dict[str, Tensor] = {}
        self.figure_count = 0

    def reset(self) -> None:
        """Begin an epoch."""
        for buffer in self.buffers():
            buffer.zero_()
        self.figures, self.figure_count = {}, 0

    @torch.no_grad()
    def add_batch(
        self,
        loss: Float[Tensor, ""],
        student_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        terms: Mapping[str, Float[Tensor, ""]] | None = None,
    ) -> None:
        """Count a batch's loss, its terms, and the accuracy of the instances that are scored."""
        index = class_index(target)
        correct = (student_logits.argmax(dim=1) == index).sum()
        scored = (index != IGNORED).sum()
        rows = torch.full_like(loss, len(target))
        self.totals[:4] += torch.stack(
            (loss.detach() * rows, rows, correct.to(loss), scored.to(loss))
        )
        if terms:
            self.term_totals += torch.stack([terms[name].to(rows) for name in self.terms]) * rows

    @torch.no_grad()
    def add_distilled(
        self,
        loss: Float[Tensor, ""],
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        temperatures: Temperatures,
        terms: Mapping[str, Float[Tensor, ""]] | None = None,
    ) -> None:
        """Count all of a batch of distillation, in one call that `engine.compile` may compile."""
        self.add_batch(loss, student_logits, target, terms)
        self.add_temperatures(temperatures, instance_state(student_logits, teacher_logits))

    @torch.no_grad()
    def add_temperatures(
        self, temperatures: Temperatures, state: Float[Tensor, "batch 3"] | None
    ) -> None:
        """Count the temperatures that were chosen; and by confidence, where states are given."""
        chosen = temperatures.chosen
        temperature = temperatures.student if chosen is None else chosen
        exact = temperature.double()
        self.totals[4:] += torch.stack((exact.sum(), exact.square().sum()))
        bins = temperature.bfloat16().view(torch.int16).long() - _FIRST
        ones = torch.ones_like(bins)
        self.histogram.scatter_add_(0, bins.clamp_(0, _BINS - 1), ones)
        if state is not None:
            known = state[:, :2].isfinite()
            self.bad_rows += (~known).sum(dim=0)
            cell = (state[:, :2].nan_to_num(0.0) * _POLICY_BINS).long().clamp_(0, _POLICY_BINS - 1)
            flat, both = cell[:, 0] * _POLICY_BINS + cell[:, 1], known.all(dim=1)
            self.policy_sum.scatter_add_(0, flat, exact * both)
            self.policy_count.scatter_add_(0, flat, ones * both)

    def add_figures(self, figures: dict[str, Tensor]) -> None:
        """Sum the figures of one update of the temperature source."""
        self.figures = {
            name: self.figures[name] + value if name in self.figures else value
            for name, value in figures.items()
        }
        self.figure_count += 1

    def read(self) -> dict[str, float]:
        """Return the epoch so far, as the columns of metrics.csv."""
        totals, counted = (
            distributed.sum_over_ranks(self.totals),
            distributed.sum_over_ranks(self.histogram),
        )
        loss, rows, correct, scored, total, squares = totals.tolist()
        row = {"train/loss": loss / max(rows, 1), "train/accuracy": correct / max(scored, 1)}
        for name, term in zip(
            self.terms, distributed.sum_over_ranks(self.term_totals).tolist(), strict=True
        ):
            row[f"train/loss_{name}"] = term / max(rows, 1)  # as it enters the loss, weighted
        for role, bad in self.read_bad_rows().items():
            if bad:
                row[f"train/bad_rows_{role}"] = bad
        histogram = counted.cumsum(0).cpu().double()
        count = float(histogram[-1])
        if count:
            mean = total / count
            row[MEAN] = mean
            row["temperature/std"] = max(squares / count - mean**2, 0.0) ** 0.5
            found = torch.searchsorted(
                histogram, torch.tensor(QUANTILES, dtype=torch.float64) * count
            )
            values = (found + _FIRST).short().view(torch.bfloat16).tolist()
            row |= dict(zip(map(quantile_column, QUANTILES), values, strict=True))
        for name, value in self.figures.items():
            if not name.startswith("temperature_"):
                row[f"agent/{name}"] = float(value) / self.figure_count
        return row

    def read_bad_rows(self) -> dict[str, int]:
        """Return how many rows of each network's logits were not finite, in the epoch so far."""
        return dict(
            zip(
                ("teacher", "student"),
                distributed.sum_over_ranks(self.bad_rows).tolist(),
                strict=True,
            )
        )

    def read_policy(self) -> PolicyMap | None:
        """Return the mean T over both confidences; None where no state was counted."""
        shape = (_POLICY_BINS, _POLICY_BINS)
        count = distributed.sum_over_ranks(self.policy_count).view(shape).tolist()
        if not any(map(any, count)):
            return None
        sums = distributed.sum_over_ranks(self.policy_sum).view(shape).tolist()
        edges = [step / _POLICY_BINS for step in range(_POLICY_BINS + 1)]
        return PolicyMap(
            teacher_confidence_edges=edges,
            student_confidence_edges=list(edges),
            mean_temperature=[
                [cell / n if n else None for cell, n in zip(row, counts, strict=True)]
                for row, counts in zip(sums, count, strict=True)
            ],
            count=count,
        )

    def counts(self) -> dict[str, Tensor]:
        """Return the buffers by name, summed over the ranks, for a checkpoint."""
        return {name: distributed.sum_over_ranks(buffer) for name, buffer in self.named_buffers()}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the summed figures."""
        return {"figures": self.figures, "count": self.figure_count}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the summed figures; raise a ValueError where one is no figure."""
        if any(value.numel() != 1 for value in state["figures"].values()):
            raise ValueError("a figure is no single number")
        device = self.totals.device
        self.figures = {name: value.to(device) for name, value in state["figures"].items()}
        self.figure_count = state["count"]
