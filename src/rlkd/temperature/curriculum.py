"""CTKD, the curriculum temperature: learnt against the student, from easy to hard."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlkd import arguments
from rlkd.checks import GREATEST, check_logits, unmasked, usable_rows
from rlkd.errors import UserError
from rlkd.temperature.schedule import EpochSource, half_cosine
from rlkd.temperature.source import TEMPERATURE_FLOOR
from rlkd.types import Temperatures

_RAW_BOUND = 5.0
"""CTKD's sigmoid stays within [0.007, 0.993], where its slope still is 0.0066."""


_ABSURD = 1e4
"""Logits beyond it, which training never meets, may not move a learnt temperature for good."""


class _CTKD(EpochSource):
    r"""The base of both forms of CTKD: T = lowest + span * sigmoid(raw), learnt adversarially.

    The optimiser that trains the student also trains `raw`, by the gradient of the same loss
    times -lambda: where the student descends, the temperature climbs. lambda grows over the
    first epochs, lambda = (1 - cos(pi min(E, n) / n)) / 2 with n = `lambda_epochs`, from nearly 0
    to 1: easy first, then hard.

    Two readings meet here. The paper lets lambda rise from 0 to 1 and multiplies the gradient by
    -lambda. The public code is said to do the reverse, because its options are called
    decay_max=0 and decay_min=-1 (its issue 24); but its cosine starts at the maximum and it
    multiplies by the number itself, so it too goes from 0 to -1, as here.

    Users report that T runs into lowest + span and stays (its issue 16): there the sigmoid is
    flat, in float32 exactly so, and no gradient brings it back. Here `raw` counts as within
    [-5, 5], so T is in [1.13, 20.87] by default, and a gradient passes at the bound if it leads
    back inwards and not if it leads farther out: T never gets stuck. Kept at the bound by a loss
    that goes on growing with T, it may still stay there; that is then the adversary's choice.

    Args:
        lowest: T at the sigmoid's 0; 0.05 or more.
        span: how much higher T is at the sigmoid's 1; above 0.
        initial_raw: what `raw` starts from; the public code's 1 is T = 15.6.
        lambda_epochs: n, epochs until the adversary has its full weight; at least 1.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(
        self, *, lowest: float, span: float, initial_raw: float, lambda_epochs: int
    ) -> None:
        super().__init__()
        arguments.number("temperature.lowest", lowest, least=TEMPERATURE_FLOOR)
        arguments.number("temperature.span", span, above=0)
        arguments.number("temperature.initial_raw", initial_raw, least=-_RAW_BOUND, most=_RAW_BOUND)
        arguments.count("temperature.lambda_epochs", lambda_epochs)
        self.lowest, self.span, self.lambda_epochs = lowest, span, lambda_epochs
        self.initial_raw = float(initial_raw)

    @property
    def reversal_weight(self) -> float:
        """The factor lambda of this epoch, in [0, 1]."""
        return half_cosine(min(self.epoch / self.lambda_epochs, 1.0))

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """Return all parameters: the student's optimiser trains them, by the reversed gradient."""
        return self.parameters()

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        learn_from: Bool[Tensor, " batch"] | None = None,
    ) -> Temperatures:
        """Give every row its temperature; the gradient will come back reversed."""
        check_logits(student_logits, teacher_logits, target, finite=False)
        raw = self.raw_temperature(student_logits, teacher_logits)
        reversed_raw = _Reversal.apply(raw, self.reversal_weight)
        assert isinstance(reversed_raw, Tensor)
        temperature = self.lowest + self.span * torch.sigmoid(reversed_raw)
        learnt = usable_rows(student_logits, teacher_logits)
        for logits in (student_logits.detach(), teacher_logits.detach()):
            size = logits.abs().masked_fill(logits < -GREATEST, 0.0)
            learnt = learnt & (size.amax(dim=1) <= _ABSURD)
        by_row = _GradientOf.apply(temperature.expand(len(student_logits)), learnt)
        assert isinstance(by_row, Tensor)
        return Temperatures.same(by_row)

    def raw_temperature(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
    ) -> Float[Tensor, "*rows"]:
        """Return what the sigmoid takes: one number for all rows, or one for each."""
        raise NotImplementedError(f"{type(self).__name__} must define raw_temperature")


class GlobalCTKD(_CTKD):
    r"""CTKD with one learnt temperature for all instances: T = 1 + 20 sigmoid(raw), raw a scalar.

    Known as a learnt temperature that, unlike a meta-learnt one, needs no held-out data: it
    climbs the loss that the student descends, more eagerly as epochs pass. Reported +0.06 to
    +0.54 points over KD on CIFAR-100 and +0.49 on ImageNet. The base class says how lambda runs
    and what keeps T from getting stuck.

    Args:
        lowest: T at the sigmoid's 0; 0.05 or more.
        span: how much higher T is at the sigmoid's 1; above 0.
        initial_raw: what `raw` starts from; the public code's 1 is T = 15.6.
        lambda_epochs: epochs until the adversary has its full weight; at least 1.

    Raises:
        UserError: for a value out of range.

    Source: Li et al., "Curriculum Temperature for Knowledge Distillation" (AAAI 2023); values
    of its public code, zhengli97/CTKD.
    """

    def __init__(
        self,
        *,
        lowest: float = 1.0,
        span: float = 20.0,
        initial_raw: float = 1.0,
        lambda_epochs: int = 10,
    ) -> None:
        super().__init__(
            lowest=lowest, span=span, initial_raw=initial_raw, lambda_epochs=lambda_epochs
        )
        self.raw = nn.Parameter(torch.tensor(float(initial_raw)))

    def raw_temperature(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
    ) -> Float[Tensor, ""]:
        """Return the scalar."""
        return self.raw


class InstanceCTKD(_CTKD):
    r"""CTKD with a temperature for each instance: T_i = 1 + 20 sigmoid(MLP(z_s, z_t)).

    A two-layer network reads the logits of student and teacher, concatenated, and is trained
    adversarially as the scalar of `GlobalCTKD` is. Known for being asked for: the public
    repository holds the global form only (its issues 12, 13, 21). What it leaves open is chosen
    here: 128 hidden units (as the RLKD code's version of it has); an output layer that starts at
    zero, so that every instance starts from the global form's temperature instead of somewhere
    on the flat of the sigmoid; and logits detached, since the adversary's gradient would
    otherwise reach the student through them and make it climb its own loss. A row that is not
    finite gets the temperature of the start.

    Args:
        num_classes: of the logits.
        hidden: units between the two layers.
        lowest: T at the sigmoid's 0; 0.05 or more.
        span: how much higher T is at the sigmoid's 1; above 0.
        initial_raw: the output layer's bias at the start; 1 is T = 15.6.
        lambda_epochs: epochs until the adversary has its full weight; at least 1.

    Raises:
        UserError: for a value out of range, or logits of another number of classes.

    Source: Li et al., "Curriculum Temperature for Knowledge Distillation" (AAAI 2023).
    """

    def __init__(
        self,
        *,
        num_classes: int = 100,
        hidden: int = 128,
        lowest: float = 1.0,
        span: float = 20.0,
        initial_raw: float = 1.0,
        lambda_epochs: int = 10,
    ) -> None:
        super().__init__(
            lowest=lowest, span=span, initial_raw=initial_raw, lambda_epochs=lambda_epochs
        )
        arguments.count("temperature.num_classes", num_classes, most=10**6)
        arguments.count("temperature.hidden", hidden, most=arguments.WIDEST)
        self.num_classes = num_classes
        self.hidden, self.output = nn.Linear(2 * num_classes, hidden), nn.Linear(hidden, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, initial_raw)

    def raw_temperature(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
    ) -> Float[Tensor, " batch"]:
        """Let the network read every row."""
        classes = student_logits.shape[1]
        if classes != self.num_classes:
            raise UserError(
                f"temperature.num_classes={self.num_classes}, but the logits are of {classes} "
                f"classes: give temperature.num_classes={classes}"
            )
        both = torch.cat((student_logits.detach(), teacher_logits.detach()), dim=1)
        both = both.to(self.hidden.weight.dtype)
        usable = usable_rows(*both.split(classes, dim=1))
        logits = torch.cat([unmasked(each)[0] for each in both.split(classes, dim=1)], dim=1)
        logits = torch.where(usable[:, None], logits, 0.0).clamp(-_ABSURD, _ABSURD)
        with torch.autocast(logits.device.type, enabled=False):
            raw = self.output(torch.relu(self.hidden(logits))).squeeze(1)
        return torch.where(usable & raw.isfinite(), raw, self.initial_raw)


class _GradientOf(torch.autograd.Function):
    """The identity; backwards, leaves out rows that are not learnt from, or have no gradient."""

    @staticmethod
    def forward(ctx: Any, temperature: Tensor, learnt: Tensor) -> Tensor:
        """Return the rows."""
        ctx.save_for_backward(learnt)
        return temperature.view_as(temperature)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """Let 0 stand for what is left out."""
        (learnt,), (gradient,) = ctx.saved_tensors, grad_outputs
        return torch.where(learnt & gradient.isfinite(), gradient, 0.0), None


class _Reversal(torch.autograd.Function):
    """Clamps to the bound; backwards, multiplies the gradient by -weight."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, weight: float) -> Tensor:
        """Clamp."""
        ctx.save_for_backward(raw)
        ctx.weight = weight
        return raw.clamp(-_RAW_BOUND, _RAW_BOUND)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """Reverse, leaving out what would lead past the bound."""
        (raw,) = ctx.saved_tensors
        # The optimiser will move `raw` along `ascent`, since it descends the reversed gradient.
        (ascent,) = grad_outputs
        outwards = (raw.abs() >= _RAW_BOUND) & (raw * ascent > 0)
        return -ctx.weight * ascent.masked_fill(outwards, 0.0), None
