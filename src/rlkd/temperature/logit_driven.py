"""Temperatures that a formula reads off the logits of the instance."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkd import arguments, distributed
from rlkd.checks import (
    GREATEST,
    MASKED,
    check_logits,
    float32_or_better,
    spread,
    unmasked,
    usable_rows,
)
from rlkd.errors import InputError
from rlkd.temperature.source import TEMPERATURE_FLOOR, TemperatureSource
from rlkd.types import Temperatures, class_index


class LogitDriven(TemperatureSource):
    """Computes temperatures from logits, in float32 or better, within [0.05, 1e6].

    Masked classes, of logit -inf or below -1e15, take no part in a mean, a maximum or a standard
    deviation. A row that is not finite gets the base temperature, and no gradient passes by it.
    """

    base_temperature: float = 4.0
    """The temperature of an instance whose logits are not finite."""

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        learn_from: Bool[Tensor, " batch"] | None = None,
    ) -> Temperatures:
        """Apply the formula to every row."""
        check_logits(student_logits, teacher_logits, target, finite=False)
        if student_logits.shape[1] < 2:
            raise InputError("logits of 1 class have no spread: give at least 2 classes")
        student, teacher = _masked(student_logits), _masked(teacher_logits)
        usable = usable_rows(student, teacher)
        found = self.formula(
            torch.where(usable[:, None], student, 0.0),
            torch.where(usable[:, None], teacher, 0.0),
            target,
        )

        def filled(values: Tensor, value: float) -> Tensor:
            return torch.where(usable, values, value)

        base, one = max(self.base_temperature, TEMPERATURE_FLOOR), found.one
        return Temperatures(
            filled(_bounded(found.student), base),
            filled(_bounded(found.teacher), base),
            None if found.weight is None else filled(found.weight, base**2),
            None
            if one is None
            else Temperatures(filled(one.student, 1.0), filled(one.teacher, 1.0)),
        )

    def formula(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Temperatures:
        """Return the temperatures, before the bounds."""
        raise NotImplementedError(f"{type(self).__name__} must define formula")


class ConfidenceTemperature(LogitDriven):
    r"""T_i = lowest + (highest - lowest) (1 - cos(pi p_i)) / 2, p_i the teacher's probability.

    p_i is what the teacher gives the true class (of a mixed target: its likeliest class). Where
    the teacher is sure, T is high and brings out what it knows about the other classes; where it
    is not, T is low. This is the hand-made rule ("manual") that the released RLKD code keeps
    beside its agent, and so the natural question to the agent: is learning worth more than this?
    That code writes cos(pi (1 - p)), which is the same; it multiplies the mean loss by the
    square of the mean T, where here every instance has its own T^2. It leaves the range open;
    1 to 10 is its agent's.

    Args:
        lowest: T where the teacher rules the true class out; 0.05 or more.
        highest: T where it is certain; above `lowest`.

    Raises:
        UserError: for a value out of range.

    Source: class Instance_Temp_KD_Loss (utils/loss.py) of the released RLKD code,
    Zhengbo-Zhang/ITKD.
    """

    def __init__(self, *, lowest: float = 1.0, highest: float = 10.0) -> None:
        super().__init__()
        self.lowest, self.highest = _range(lowest, highest)
        self.base_temperature = (lowest + highest) / 2

    def formula(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Temperatures:
        """Read T off the teacher's probability of the true class."""
        # An instance that is not scored is background: class 0.
        true_class = class_index(target).clamp_min(0)[:, None]
        confidence = torch.softmax(teacher_logits, dim=1).gather(1, true_class).squeeze(1)
        return Temperatures.same(_half_cosine(confidence, self.lowest, self.highest))


class EntropyTemperature(LogitDriven):
    r"""T_i = lowest + (highest - lowest) (1 - cos(pi (1 - H_i))) / 2, H_i the teacher's entropy.

    H_i = -sum_c p_c log p_c / log k lies in [0, 1] for k classes: 0 where the teacher puts
    everything on one class, 1 where it is uniform. The form of `ConfidenceTemperature` that
    needs no label: a sharp output is softened much, a flat one little, so the entropy of the
    targets becomes more even. A control of this project, not a published method.

    Args:
        lowest: T where the teacher is uniform; 0.05 or more.
        highest: T where it is certain; above `lowest`.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(self, *, lowest: float = 1.0, highest: float = 10.0) -> None:
        super().__init__()
        self.lowest, self.highest = _range(lowest, highest)
        self.base_temperature = (lowest + highest) / 2

    def formula(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Temperatures:
        """Read T off the teacher's entropy."""
        log_probability = torch.log_softmax(teacher_logits, dim=1).clamp_min(MASKED)
        entropy = -(log_probability.exp() * log_probability).sum(dim=1)
        _, count = unmasked(teacher_logits)
        greatest = torch.as_tensor(count, dtype=entropy.dtype, device=entropy.device).log()
        greatest = greatest.clamp_min(1e-6)  # where all classes but one are masked, H = 0
        certainty = (1 - entropy / greatest).clamp(0, 1)
        return Temperatures.same(_half_cosine(certainty, self.lowest, self.highest))


class LogitStandardisation(LogitDriven):
    r"""T of each network = tau (std(z_i) + 1e-7), its own, and a weight of tau^2.

    The paper standardises each network's logits, z' = (z - mean(z)) / std(z), and distils at
    tau. A shift changes no softmax, so this is a temperature for each network; a loss that leaves
    logits at temperature 1 somewhere (NKD, TTM, WTTM) divides them by std(z_i) + 1e-7 there. So
    any loss on logits at these temperatures is that loss on `losses.standardise` of both, where
    tau std(z_i) is not below the floor of 0.05. Known for freeing the student from having to match
    the teacher's range of logits: +0.8 to +3.3 points over KD on CIFAR-100, with the weight of the
    KD term raised to 9.
    The gradient passes through the student's own deviation, as in the public code; the deviation
    is that of a sample (divisor k - 1).

    Args:
        base_temperature: tau; 2 by default in the public code. Above 0.

    Raises:
        UserError: if it is not a finite number above 0.

    Source: Sun et al., "Logit Standardization in Knowledge Distillation" (CVPR 2024);
    sunshangquan/logit-standardization-KD.
    """

    def __init__(self, *, base_temperature: float = 2.0) -> None:
        super().__init__()
        self.base_temperature = _positive("base_temperature", base_temperature)

    def formula(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Temperatures:
        """Scale tau by each network's standard deviation."""
        one = Temperatures(spread(student_logits) + 1e-7, spread(teacher_logits) + 1e-7)
        return Temperatures(
            student=self.base_temperature * one.student,
            teacher=self.base_temperature * one.teacher,
            weight=torch.full_like(one.teacher, self.base_temperature**2),
            one=one,
        )


class NormKD(LogitDriven):
    r"""T of each network = T_0 std(z_i), its own; the loss is weighted by (T_0 std(z_t))^2.

    Softens every instance equally for any spread of its logits, where one T for all leaves
    some sharp and flattens others. Known as customising T at no cost. It differs from logit
    standardisation in the weight alone: instances with widely spread teacher logits count more.
    The gradient passes through the student's deviation, as in the public code.

    Args:
        base_temperature: T_0; 2 in the public code. Above 0.

    Raises:
        UserError: if it is not a finite number above 0.

    Source: Chi et al., "NormKD: Normalized Logits for Knowledge Distillation"
    (arXiv 2308.00520); gizi1/NormKD.
    """

    def __init__(self, *, base_temperature: float = 2.0) -> None:
        super().__init__()
        self.base_temperature = _positive("base_temperature", base_temperature)

    def formula(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Temperatures:
        """Scale T_0 by each network's standard deviation."""
        student = self.base_temperature * spread(student_logits)
        teacher = self.base_temperature * spread(teacher_logits)
        return Temperatures(student, teacher, _bounded(teacher).square())


class DTKD(LogitDriven):
    r"""T_s = 2 m_s / (m_t + m_s) T_0 and T_t = 2 m_t / (m_t + m_s) T_0, m the greatest logit.

    Shares 2 T_0 between the networks by the sharpness of their outputs: the sharper one is
    softened more, so that both come out about equally smooth. Known for levelling the sharpness
    of student and teacher, and for an erratum of its author: the derivation (equations 4 and 5)
    is wrong, the results are real. The method adds, to 3 times this KD term, once the KD term at
    the constant T_0, and warms both up over 20 epochs: `method=dtkd` is that. The gradient passes
    through the student's maximum, as in the public code. Beside a weak cross-entropy alone, as in
    `method=kd`, a student then gains by shrinking its logits: use `method=dtkd` (docs/method.md).

    As published the formula breaks for maxima that are not positive: negative temperatures, or a
    division by zero. Here m is measured from the mean of the row's logits. That is never
    negative, and it depends, as a softmax does, only on differences between logits. For trained
    networks it is the published m: their logits' mean is 0 but for a hundredth (the ResNet-56 of
    the tests: at most 0.011, where the mean maximum is 13.2).

    Args:
        base_temperature: T_0; 4 in the public code. Above 0.

    Raises:
        UserError: if it is not a finite number above 0.

    Source: Wei and Bai, "Dynamic Temperature Knowledge Distillation" (arXiv 2404.12711);
    JinYu1998/DTKD.
    """

    def __init__(self, *, base_temperature: float = 4.0) -> None:
        super().__init__()
        self.base_temperature = _positive("base_temperature", base_temperature)

    def formula(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Temperatures:
        """Share out twice T_0."""
        student, teacher = _peak(student_logits), _peak(teacher_logits)
        share = 2 * self.base_temperature / (student + teacher)
        return Temperatures(share * student, share * teacher)


class MaxLogitTemperature(LogitDriven):
    r"""T of each network = m / ratio, its own, m its greatest logit: m / T is the same for all.

    The idea of CIST: the entropy of a softened output depends mostly on the greatest logit over
    T, so holding that constant makes all targets about equally informative, and a T for each
    network frees the student from the teacher's scale. What was found of the paper is this much;
    its reweighting by the teacher's confidence and the student's difficulty is not part of this
    source, which weights by T_s T_t. As in `DTKD`, m is measured from the row's mean, the gradient
    passes through the student's maximum, and a student gains by shrinking its logits.

    Args:
        ratio: m / T; above 0. The default gives T = 4 on average for a CIFAR-100 teacher whose
            mean m is 13.2 (the ResNet-56 of the tests); the paper's value is not known.

    Raises:
        UserError: if it is not a finite number above 0.

    Source: Luong et al., "Consistently Informative Soft-Label Temperature for Knowledge
    Distillation" (arXiv 2605.20357), abstract.
    """

    def __init__(self, *, ratio: float = 3.3) -> None:
        super().__init__()
        self.ratio = _positive("ratio", ratio)

    def formula(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Temperatures:
        """Divide each network's greatest logit by the ratio."""
        return Temperatures(_peak(student_logits) / self.ratio, _peak(teacher_logits) / self.ratio)


class AdaKD(LogitDriven):
    r"""T_i = T_0 exp(-c tanh(log(s_i / median(s)))), s_i how far the student is from the teacher.

    s_i is the Hellinger distance of their probabilities at temperature 1, in [0, 1], and the
    median is the batch's, over all ranks. Instances that the student has not learnt yet get sharper
    targets, the others softer ones: T lies between T_0 exp(-c) and T_0 exp(c). There is no gradient
    by T. Known from language models, where half of its gain over T = 1 was a better constant's.
    A row in which the networks agree exactly has no part in the median.

    Args:
        base_temperature: T_0, of an instance at the median; above 0.
        strength: c, 0.5 in the paper; 0 or more. 0 is the constant T_0.

    Raises:
        UserError: for a value out of range.

    Source: "inverse difficulty temperature scaling" of AdaKD (AAAI 2026); SassyRong/AdaKD. Its
    other half, which leaves the easiest tokens out, is not part of this source.
    """

    def __init__(self, *, base_temperature: float = 4.0, strength: float = 0.5) -> None:
        super().__init__()
        self.base_temperature = _positive("base_temperature", base_temperature)
        arguments.number("temperature.strength", strength, least=0)
        self.strength = strength

    @torch.no_grad()
    def formula(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Temperatures:
        """Compare each instance's distance with the batch's median."""
        roots = (torch.softmax(each, dim=1).sqrt() for each in (student_logits, teacher_logits))
        distance = math.sqrt(0.5) * torch.sub(*roots).norm(dim=1)
        known = torch.where(distance > 0, distance, torch.nan)
        median = distributed.gather_rows(known).nanmedian()
        hardness = torch.tanh(torch.log(distance / median)).nan_to_num(0.0)
        return Temperatures.same(self.base_temperature * torch.exp(-self.strength * hardness))


def _masked(logits: Tensor) -> Tensor:
    """Return logits in float32 or better, with all that is masked at -inf."""
    precise = float32_or_better(logits)
    return precise.masked_fill(precise < -GREATEST, -torch.inf)


def _bounded(temperature: Tensor) -> Tensor:
    return temperature.clamp(TEMPERATURE_FLOOR, arguments.LARGEST)


def _peak(logits: Tensor) -> Tensor:
    """Return how far the greatest logit of each row lies above the row's mean, above 0."""
    filled, _ = unmasked(logits)
    return (filled.amax(dim=1) - filled.mean(dim=1)).clamp_min(1e-6)


def _half_cosine(certainty: Tensor, lowest: float, highest: float) -> Tensor:
    """Go from `lowest` at 0 to `highest` at 1, slowly at both ends."""
    return lowest + (highest - lowest) * (1 - torch.cos(math.pi * certainty)) / 2


def _positive(name: str, value: float) -> float:
    arguments.number(f"temperature.{name}", value, above=0)
    return value


def _range(lowest: float, highest: float) -> tuple[float, float]:
    arguments.number("temperature.lowest", lowest, least=TEMPERATURE_FLOOR)
    arguments.number("temperature.highest", highest, above=lowest)
    return lowest, highest
