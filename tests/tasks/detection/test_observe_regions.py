"""Which losses, sources and detectors fit the regions of a detector, found out before training."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.support.detection_parts import (
    CLASSES,
    batch_of,
    everything_of,
    make_detector,
    same,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from rlkd import losses
from rlkd.config.compose import configure, options
from rlkd.engine import build
from rlkd.errors import UserError
from rlkd.losses import Objective, Term
from rlkd.models import Teacher
from rlkd.tasks.detection.forward import DetectorForward, prepare_forward
from rlkd.temperature import ConstantTemperature, TemperatureSource
from rlkd.types import IGNORED, Temperatures

pytestmark = pytest.mark.usefixtures("plainly")


def ready(
    objective: Objective,
    student: FasterRCNN | None = None,
    teacher: FasterRCNN | None = None,
    *,
    temperature: TemperatureSource | None = None,
    num_classes: int = CLASSES,
) -> DetectorForward:
    return prepare_forward(
        objective,
        student or make_detector(),
        Teacher(teacher or make_detector(1, fpn_channels=32)),
        batch=batch_of(0, 1),
        num_classes=num_classes,
        temperature=temperature or ConstantTemperature(4.0),
    )


def value(objective: Objective, forward: DetectorForward, *rows: int) -> dict[str, Tensor]:
    """Call an objective on a batch, and its backward pass; return each loss."""
    seen, *_ = forward(batch_of(*rows))
    fixed = Temperatures.constant(4.0, like=seen.student_logits)
    total, values = objective(replace(seen, temperature=fixed))
    total.backward()
    return values


def gap(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    return F.mse_loss(student_feature.mean(dim=(1, 2, 3)), teacher_feature.mean(dim=(1, 2, 3)))


@pytest.mark.parametrize(
    ("layers", "sizes"),
    # of images of 64 pixels, at strides 4, 8 and 16
    [
        ("stages", [16, 8, 4]),
        ("last", [4]),
        ("final", [4]),
        ("fpn1", [8]),
        (["fpn0", "last"], [16, 4]),
        ("regions", [7]),
    ],
)
def test_a_feature_loss_gets_the_maps_that_its_term_names(
    layers: str | list[str], sizes: list[int]
) -> None:
    given: list[tuple[torch.Size, torch.Size]] = []

    def noted(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        given.append((student_feature.shape, teacher_feature.shape))
        return gap(student_feature, teacher_feature)

    objective = Objective({"noted": Term(noted, layers=layers)})
    forward = ready(objective)
    given.clear()
    values = value(objective, forward, 0, 1, 2)
    rows = 48 if layers == "regions" else 3
    assert given == [
        (torch.Size((rows, 24, size, size)), torch.Size((rows, 32, size, size))) for size in sizes
    ]
    assert values["noted"] > 0


@pytest.mark.parametrize("layers", ["stages", "last", "fpn1", "regions"])
def test_imitation_of_the_pyramid_trains_student_and_regressor(layers: str) -> None:
    student = make_detector()
    objective = Objective({"fitnet": Term(losses.FitNet, layers=layers)})
    forward = ready(objective, student)
    seen, *_ = forward(batch_of(0, 1))
    total, _ = objective(seen)
    total.backward()
    assert total > 0
    body: Any = student.backbone
    assert body.body["0"][0][0].weight.grad.abs().sum() > 0
    regressors = list(objective.parameters())
    assert len(regressors) == (3 if layers == "stages" else 1) * 4
    assert all(each.grad is not None for each in regressors)


def test_a_teacher_of_larger_images_is_imitated_too() -> None:
    objective = Objective({"fitnet": Term(losses.FitNet, layers="stages")})
    forward = ready(objective, teacher=make_detector(1, min_size=96, fpn_channels=32))
    assert torch.isfinite(value(objective, forward, 0, 1)["fitnet"])


@pytest.mark.parametrize(
    "layers", ["stage2", "fpn3", [], ["fpn0", "backbone"], {"student": "a", "teacher": "b"}, None]
)
def test_layers_that_a_detector_does_not_have_are_refused(layers: object) -> None:
    told = r"loss gap: layers=.*: a detector has stages, last, final, regions, fpn0, fpn1, fpn2$"
    with pytest.raises(UserError, match=told):
        ready(Objective({"gap": Term(gap, layers=layers)}))


EMBEDDED: dict[str, Callable[[], Term]] = {
    "sp": lambda: Term(losses.sp, layers="regions"),
    "pkt": lambda: Term(losses.pkt),
    "rkd": lambda: Term(losses.rkd),
    "srrl": lambda: Term(losses.SRRL, layers="regions"),
    "mlkd": lambda: Term(losses.mlkd),
}


@pytest.mark.parametrize("name", EMBEDDED)
def test_losses_on_embeddings_and_relations_run_on_regions(name: str) -> None:
    objective = Objective({name: EMBEDDED[name]()})
    forward = ready(objective)
    for rows in ((0, 1), (2,)):
        assert torch.isfinite(value(objective, forward, *rows)[name])


def test_pkt_compares_the_embeddings_of_the_regions() -> None:
    objective = Objective({"pkt": Term(losses.pkt)})
    forward = ready(objective)
    seen, *_ = forward(batch_of(0, 1))
    assert seen.student_embedding is not None
    assert seen.teacher_embedding is not None
    assert seen.student_embedding.shape == (32, 64)
    expected = losses.pkt(seen.student_embedding, seen.teacher_embedding)
    assert torch.equal(objective(seen)[0], expected)


def test_the_teachers_head_turns_its_embeddings_into_its_logits() -> None:
    teacher = make_detector(1)
    objective = Objective({"srrl": Term(losses.SRRL, layers="regions")})
    forward = ready(objective, teacher=teacher)
    seen, *_ = forward(batch_of(0, 1))
    assert seen.teacher_head is not None
    assert seen.teacher_embedding is not None
    torch.testing.assert_close(seen.teacher_head(seen.teacher_embedding), seen.teacher_logits)
    heads: Any = teacher.roi_heads
    linear = F.linear(
        seen.teacher_embedding,
        heads.box_predictor.cls_score.weight,
        heads.box_predictor.cls_score.bias,
    )
    torch.testing.assert_close(linear, seen.teacher_logits)


@pytest.mark.parametrize("layers", ["last", "stages"])
def test_a_loss_that_would_set_images_against_regions_is_refused(layers: str) -> None:
    told = "loss srrl needs the map of each region and not of an image: .* layers=regions$"
    with pytest.raises(UserError, match=told):
        ready(Objective({"srrl": Term(losses.SRRL, layers=layers)}))


def test_a_loss_that_needs_the_row_of_each_instance_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^loss crd needs index, which this run does not have: .*~method"
    ):
        ready(build.objective(configure(["task=detection", "method=crd"])))


@pytest.mark.long
@pytest.mark.parametrize("name", options("method"))
def test_every_packaged_method_runs_or_is_refused_in_one_line(name: str) -> None:
    objective = build.objective(configure(["task=detection", f"method={name}"]))
    try:
        forward = ready(objective)
    except UserError as error:
        told = str(error)
        assert name in {"crd", "fitnet", "reviewkd", "simkd", "srrl"}
        assert told.startswith(f"loss {name}")
        assert "\n" not in told
        assert "does not fit" not in told
    else:
        assert all(each.isfinite() for each in value(objective, forward, 0, 1).values())


@pytest.mark.parametrize("name", options("temperature"))
def test_every_packaged_source_takes_regions_whose_background_is_not_scored(name: str) -> None:
    source = build.temperature(configure(["task=detection", f"temperature={name}"]), num_classes=6)
    ready(Objective({"kd": Term(losses.kd)}), temperature=source)


def test_a_source_is_rehearsed_with_what_it_will_be_given() -> None:
    class Noting(ConstantTemperature):
        def forward(self, *given: Tensor, learn_from: Tensor | None = None) -> Temperatures:
            targets.append(given[2])
            return super().forward(*given, learn_from=learn_from)

    targets: list[Tensor] = []
    ready(Objective({"kd": Term(losses.kd)}), temperature=Noting(4.0))
    (target,) = targets
    assert (target == IGNORED).any()
    assert not (target == 0).any()


def test_a_loss_may_differentiate_itself() -> None:
    def slope(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        total = (student_logits - teacher_logits).square().sum()
        return torch.autograd.grad(total, student_logits, create_graph=True)[0].mean()

    objective = Objective({"slope": Term(slope)})
    seen, *_ = ready(objective)(batch_of(0, 1))
    assert torch.isfinite(objective(seen)[0])


def test_getting_ready_leaves_both_detectors_and_all_draws_alone() -> None:
    student, teacher = make_detector(), make_detector(1)
    Teacher(teacher)
    torch.manual_seed(4)
    before = everything_of(student), everything_of(teacher)
    ready(Objective({"kd": Term(losses.kd), "pkt": Term(losses.pkt)}), student, teacher)
    assert same(everything_of(student), before[0])
    assert same(everything_of(teacher), before[1])


def test_a_detector_of_one_stage_is_refused() -> None:
    backbone = make_detector().backbone
    one_stage: Any = RetinaNet(
        backbone,
        CLASSES,
        anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((1.0,),) * 3),
    )
    told = "the teacher is a RetinaNet, which does not classify regions: give a two-stage detector"
    with pytest.raises(UserError, match=told):
        ready(Objective({"kd": Term(losses.kd)}), teacher=one_stage)
    told = "the student is a Identity, which does not classify regions"
    stranger: Any = nn.Identity()
    with pytest.raises(UserError, match=told):
        ready(Objective({"kd": Term(losses.kd)}), stranger)


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_other_classes_than_the_datas_are_refused(role: str) -> None:
    told = f"the {role} has 4 classes and the data have 6, the background counted: make"
    with pytest.raises(UserError, match=told):
        ready(Objective({"kd": Term(losses.kd)}), **{role: make_detector(num_classes=4)})
