"""What is found out before training starts, by one call of everything."""

from functools import partial

import pytest
import torch
from tests.support.runs import Ready, as_users_call
from torch import Tensor, nn

from rlkd import models
from rlkd.errors import UserError
from rlkd.losses import Objective, Term, kd
from rlkd.models import Teacher
from rlkd.tasks.classification.forward import prepare_forward
from rlkd.temperature import ConstantTemperature
from rlkd.types import Batch, Temperatures


def gap(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    return (student_feature.mean() - teacher_feature.mean()).square()


def test_what_is_bound_to_a_loss_is_not_overwritten(ready: Ready, batch: Batch) -> None:
    seen: list[float] = []

    def told(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
        seen.append(temperature)
        return student_logits.mean()

    objective, forward = ready(told=Term(partial(told, temperature=1.0)))
    objective(forward(batch).inputs)
    assert set(seen) == {1.0}


def test_a_loss_is_rehearsed_with_mixed_targets_where_there_will_be_some(
    student: nn.Module, teacher: Teacher, batch: Batch
) -> None:
    def by_index(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        return student_logits[torch.arange(len(target)), target].mean()

    def make(*, mixes: bool) -> None:
        prepare_forward(
            Objective({"own": Term(by_index)}),
            student,
            teacher,
            batch=batch,
            train_targets=torch.arange(10),
            num_classes=10,
            temperature=ConstantTemperature(4.0),
            mixes=mixes,
        )

    make(mixes=False)
    with pytest.raises(UserError, match="loss own does not fit"):
        make(mixes=True)


def test_the_last_convolution_of_a_light_student_learns_by_what_is_pooled_in_a_wide_teacher(
    student: nn.Module, batch: Batch
) -> None:
    def made(student: nn.Module, teacher: str) -> Objective:
        objective = Objective({"gap": Term(gap, layers="final"), "last": Term(gap)})
        network = models.create(teacher, num_classes=10)
        prepare_forward(
            objective,
            student,
            Teacher(network),
            batch=batch,
            train_targets=torch.arange(10),
            num_classes=10,
            temperature=None,
        )
        return objective

    light = made(models.create("ShuffleV2", num_classes=10), "wrn_16_2")
    assert light.pairs == {"gap": [("relu2", "relu")], "last": [("layer3", "block3")]}
    none_named = made(student, "MobileNetV2")
    assert none_named.pairs == {"gap": [("layer3", "conv2")], "last": [("layer3", "blocks.6")]}


def test_a_source_of_the_wrong_shape_is_refused(
    student: nn.Module, teacher: Teacher, batch: Batch
) -> None:
    class Columns(ConstantTemperature):
        def forward(self, *arguments: Tensor, learn_from: Tensor | None = None) -> Temperatures:
            return Temperatures.same(torch.full((len(arguments[0]), 1), 4.0))

    with as_users_call(), pytest.raises(UserError, match=r"Columns returned shapes \(4, 1\)"):
        prepare_forward(
            Objective({"kd": Term(kd)}),
            student,
            teacher,
            batch=batch,
            train_targets=torch.arange(10),
            num_classes=10,
            temperature=Columns(4.0),
        )


def test_a_network_that_returns_no_logits_is_named(teacher: Teacher, batch: Batch) -> None:
    class Pair(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            return image, image

    with as_users_call(), pytest.raises(UserError, match="the student returned a tuple of"):
        prepare_forward(
            Objective({"kd": Term(kd)}),
            Pair(),
            teacher,
            batch=batch,
            train_targets=torch.arange(10),
            num_classes=10,
            temperature=ConstantTemperature(4.0),
        )


@pytest.mark.parametrize("layers", [[], None, 3, [1], {"student": None, "teacher": "layer1"}])
def test_layers_of_no_known_form_are_refused(ready: Ready, layers: object) -> None:
    with pytest.raises(UserError, match="loss gap: layers="):
        ready(gap=Term(gap, layers=layers))


def test_a_loss_may_differentiate_itself(ready: Ready, batch: Batch) -> None:
    def slope(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        total = (student_logits - teacher_logits).square().sum()
        return torch.autograd.grad(total, student_logits, create_graph=True)[0].mean()

    objective, forward = ready(slope=Term(slope))
    assert torch.isfinite(objective(forward(batch).inputs)[0])


def test_all_training_targets_are_for_building_only(ready: Ready) -> None:
    def asks(student_logits: Tensor, train_targets: Tensor) -> Tensor:
        return student_logits.mean()

    with pytest.raises(UserError, match="asks for 'train_targets'"):
        ready(asks=Term(asks))
