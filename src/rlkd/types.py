"""The nouns that pass between the rooms of the house: frozen records of tensors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlkd.errors import InputError


@dataclass(frozen=True, slots=True)
class Batch:
    """Training instances, and where they come from."""

    image: Float[Tensor, "batch channels height width"]
    """Normalised images."""
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"]
    """Class indices; or, where images are mixed, one distribution over classes a row."""
    index: Int[Tensor, " batch"]
    """The row of each instance in its training set."""
    strong: Float[Tensor, "batch channels height width"] | None = None
    """A second, strongly augmented view of the same instances, normalised; None where no loss
    needs one."""
    view: Int[Tensor, " batch"] | None = None
    """Which of its views each image is, of as many as the loader makes; -1 for an image that is
    none of them, as a mixed one. None where there is no end of views."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """The objects of one image."""

    box: Float[Tensor, "objects 4"]
    """Corners x1, y1, x2, y2 in pixels, x1 < x2 and y1 < y2."""
    label: Int[Tensor, " objects"]
    """The class of each object, from 1: class 0 is the background."""


@dataclass(frozen=True, slots=True)
class DetectionBatch:
    """Images of sizes of their own, with their objects."""

    image: tuple[Float[Tensor, "channels _ _"], ...]
    """Pixels in [0, 1], not normalised: a detector does that itself."""
    boxes: tuple[Boxes, ...]
    """The objects of each image; none where an image is empty."""
    index: Int[Tensor, " batch"]
    """The row of each image in its training set."""


@dataclass(frozen=True, slots=True)
class Temperatures:
    """The temperature of each instance, for either network. Dimensionless, above 0."""

    student: Float[Tensor, " batch"]
    """Divides the student's logits."""
    teacher: Float[Tensor, " batch"]
    """Divides the teacher's logits."""
    weight: Float[Tensor, " batch"] | None = None
    """Multiplies an instance's loss; None means the product of the two temperatures, which
    keeps gradients of one size."""
    one: "Temperatures | None" = None
    """Stands for temperature 1 where a source rescales the logits themselves; None means 1."""
    chosen: Float[Tensor, " batch"] | None = None
    """The student's before it was multiplied by what a source makes of the logits: what a run
    records. None means `student`."""

    @property
    def factor(self) -> Float[Tensor, " batch"]:
        """The factor of an instance's loss: T^2 where both networks have the same T."""
        return self.student * self.teacher if self.weight is None else self.weight

    @property
    def at_one(self) -> "Temperatures":
        """The divisors of logits where a formula leaves them unsoftened."""
        if self.one is not None:
            return self.one
        return Temperatures(torch.ones_like(self.student), torch.ones_like(self.teacher))

    def times(
        self, student: Float[Tensor, " batch"], teacher: Float[Tensor, " batch"]
    ) -> "Temperatures":
        """Return these, of temperature 1 each, at other temperatures of each instance."""
        return Temperatures(
            student * self.student,
            teacher * self.teacher,
            student * teacher * self.factor,
            self.one,
        )

    def first(self, rows: int) -> "Temperatures":
        """Return those of the first instances."""
        return Temperatures(
            self.student[:rows],
            self.teacher[:rows],
            None if self.weight is None else self.weight[:rows],
            None if self.one is None else self.one.first(rows),
            None if self.chosen is None else self.chosen[:rows],
        )

    @classmethod
    def same(cls, temperature: Float[Tensor, " batch"]) -> "Temperatures":
        """Give both networks the same temperature."""
        return cls(student=temperature, teacher=temperature)

    @classmethod
    def constant(cls, temperature: float, like: Float[Tensor, "batch classes"]) -> "Temperatures":
        """Fill a vector with one temperature, a row of `like` each, in float32."""
        filled = torch.full((len(like),), float(temperature), device=like.device)
        return cls.same(filled)


IGNORED = -100
"""Stands in a target for the class of an instance that is not to be scored; torch's own."""


def class_index(
    target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"] | None,
) -> Int[Tensor, " batch"]:
    """Return the class of each row: the target itself, or the likeliest class of a mixed one.

    Raises:
        InputError: if there are no targets.
    """
    if target is None:
        raise InputError("no targets: give class indices, int64 of shape (batch,)")
    return target if target.dim() == 1 else target.argmax(dim=1)
