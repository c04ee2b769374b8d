"""SimKD: the student learns the teacher's last map and classifies with the teacher's head."""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd import arguments
from rlkd.errors import UserError

_ROUNDING = 0.05
"""How far the mean of a map may be from the embedding, relative to it: bfloat16 rounds less."""


class SimKD(nn.Module):
    """Compares the student's last map, projected, with the teacher's: a mean squared error.

    The larger map is average-pooled to the size of the smaller. The projector is a bottleneck of
    1 x 1, 3 x 3 and 1 x 1 convolutions, each with batch norm and ReLU. Trained by this loss alone,
    as published, the student's own classifier learns nothing: the student is what `predict` gives,
    and `SimKDStudent` makes a network of it.

    Args:
        student_feature: an example of the student's last map.
        teacher_feature: an example of the teacher's last map, whose mean over places is what the
            teacher's classifier reads.
        teacher_embedding: an example of what goes into the teacher's classifier.
        factor: how much narrower than the teacher's map the bottleneck is; more is cheaper.

    Raises:
        UserError: if the mean of the teacher's map is not its embedding, or the factor leaves no
            channel.

    Source: Chen et al., "Knowledge Distillation with the Reused Teacher Classifier" (CVPR 2022),
    section 3.
    """

    def __init__(
        self,
        student_feature: Float[Tensor, "batch student_channels student_height student_width"],
        teacher_feature: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
        *,
        factor: int = 2,
    ) -> None:
        super().__init__()
        channels, out = student_feature.shape[1], teacher_feature.shape[1]
        if teacher_embedding.shape[1] != out:
            raise UserError(
                f"the teacher's classifier reads {teacher_embedding.shape[1]} numbers, but its map "
                f"has {out} channels: give layers the teacher's map whose mean goes into the "
                "classifier"
            )
        arguments.count("factor", factor, most=out)
        pooled = teacher_feature.float().mean(dim=(2, 3))
        away = torch.dist(pooled, teacher_embedding.float())
        if away > _ROUNDING * teacher_embedding.float().norm():
            raise UserError(
                "the mean of the teacher's map is not what its classifier reads: give layers=final "
                "where the network names that map, else {student: PATH, teacher: PATH} with the "
                "teacher's map whose mean goes into the classifier"
            )
        sizes = zip(student_feature.shape[2:], teacher_feature.shape[2:], strict=True)
        height, width = (min(pair) for pair in sizes)
        self.size = (height, width)
        middle = out // factor
        self.projector = nn.Sequential(
            *_layer(channels, middle, kernel=1),
            *_layer(middle, middle, kernel=3),
            *_layer(middle, out, kernel=1),
        )

    def forward(
        self,
        student_feature: Float[Tensor, "batch student_channels student_height student_width"],
        teacher_feature: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the projected map.

        Args:
            student_feature: the student's last map.
            teacher_feature: the teacher's.
        """
        projected = self.project(student_feature)
        teacher = F.adaptive_avg_pool2d(teacher_feature.detach(), self.size)
        return F.mse_loss(projected, teacher.to(projected.dtype))

    def project(
        self, student_feature: Float[Tensor, "batch student_channels student_height student_width"]
    ) -> Float[Tensor, "batch teacher_channels height width"]:
        """Return the student's map as a map of the teacher's channels.

        Args:
            student_feature: the student's last map.
        """
        weight = next(self.projector.parameters())
        return self.projector(F.adaptive_avg_pool2d(student_feature.to(weight.dtype), self.size))

    def predict(
        self,
        student_feature: Float[Tensor, "batch student_channels student_height student_width"],
        teacher_head: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits that the teacher's classifier gives the student's map.

        Args:
            student_feature: the student's last map.
            teacher_head: the teacher's classifier.
        """
        return teacher_head(self.project(student_feature).mean(dim=(2, 3)))


class SimKDStudent(nn.Module):
    """A student that classifies with its teacher's classifier: images in, logits out.

    It shares the weights of `student` and `simkd`, and keeps a frozen copy of the classifier.

    Args:
        student: returns its last map for images.
        simkd: the loss that it was trained with.
        teacher_head: the teacher's classifier.
    """

    def __init__(self, student: nn.Module, simkd: SimKD, teacher_head: nn.Module) -> None:
        super().__init__()
        self.student, self.simkd = student, simkd
        self.head = copy.deepcopy(teacher_head).requires_grad_(False)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        return self.simkd.predict(self.student(image), self.head)


def _layer(channels: int, out: int, *, kernel: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True)
