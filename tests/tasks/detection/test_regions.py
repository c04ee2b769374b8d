"""Regions as instances: torchvision's own losses, and one teacher's word on the same regions."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.reference.decoupled_rows import dkd_slowly
from tests.support.detection_parts import (
    as_torchvision_wants,
    batch_of,
    emptied,
    make_detector,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN

from rlkd import losses
from rlkd.losses import LossInputs, Objective, Term
from rlkd.models import Teacher
from rlkd.tasks.detection.evaluate import find
from rlkd.tasks.detection.forward import DetectorForward
from rlkd.types import Boxes, DetectionBatch, Temperatures

BATCHES = {
    "two images": batch_of(0, 1),
    "one image": batch_of(2),
    "one of two is empty": emptied(batch_of(0, 1), 0),
    "all are empty": emptied(batch_of(0, 1), 0, 1),
}


def frozen_copy(student: FasterRCNN) -> Teacher:
    made = make_detector(frozen_norms=True)
    made.load_state_dict(student.state_dict())
    return Teacher(made)


def gradients(detector: FasterRCNN, loss: Tensor) -> list[Tensor]:
    detector.zero_grad()
    loss.backward()
    return [torch.zeros(1) if p.grad is None else p.grad.clone() for p in detector.parameters()]


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("name", BATCHES)
def test_the_students_losses_and_gradients_are_torchvisions(name: str, taught: bool) -> None:
    batch, student, twin = BATCHES[name], make_detector(), make_detector()
    forward = DetectorForward(student, Teacher(make_detector(3)) if taught else None)
    torch.manual_seed(7)
    expected: Any = twin(list(batch.image), as_torchvision_wants(batch.boxes))
    draws = torch.random.get_rng_state()
    torch.manual_seed(7)
    seen, _, regions = forward(batch)
    assert torch.equal(torch.random.get_rng_state(), draws)
    total = torch.stack(list(expected.values())).sum()
    assert seen.student_loss is not None
    assert torch.equal(seen.student_loss, total)
    for mine, theirs in zip(
        gradients(student, seen.student_loss), gradients(twin, total), strict=True
    ):
        assert torch.equal(mine, theirs)
    for key, value in twin.state_dict().items():  # batch norms saw the batch once
        assert torch.equal(student.state_dict()[key], value), key
    # the classification part from the rows themselves
    found = F.cross_entropy(seen.student_logits, seen.target)
    torch.testing.assert_close(found, expected["loss_classifier"])
    assert len(seen.target) == sum(map(len, regions.proposals)) == 16 * len(batch.image)


def test_targets_of_empty_images_are_the_background() -> None:
    seen, _, regions = DetectorForward(make_detector(), None)(BATCHES["one of two is empty"])
    assert (seen.target[regions.image == 0] == 0).all()
    assert (seen.target[regions.image == 1] > 0).any()
    seen, *_ = DetectorForward(make_detector(), None)(BATCHES["all are empty"])
    assert (seen.target == 0).all()


def test_observing_leaves_the_batch_as_it_was() -> None:
    batch, twin = batch_of(0, 1), batch_of(0, 1)
    forward = DetectorForward(make_detector(), Teacher(make_detector(1, min_size=80)))
    forward(batch)
    forward.around(batch)
    forward.loss(batch)
    for one, other in zip(batch.image, twin.image, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(batch.boxes, twin.boxes, strict=True):
        assert torch.equal(one.box, other.box)
        assert torch.equal(one.label, other.label)


def test_a_teacher_that_is_a_copy_says_of_every_region_what_the_student_says() -> None:
    student = make_detector(frozen_norms=True)
    seen, *_ = DetectorForward(student, frozen_copy(student))(batch_of(0, 1))
    assert seen.teacher_logits is not None
    assert seen.teacher_embedding is not None
    assert torch.equal(seen.teacher_logits, seen.student_logits)
    assert torch.equal(seen.teacher_embedding, seen.student_embedding)
    names = ["fpn0", "fpn1", "fpn2", "regions"]
    assert list(seen.student_maps) == list(seen.teacher_maps) == names
    for name, level in seen.student_maps.items():
        assert torch.equal(level, seen.teacher_maps[name])
    # finest first: strides 4, 8 and 16 of 64 pixels; a region is pooled to 7 x 7 cells
    assert [each.shape[-1] for each in seen.student_maps.values()] == [16, 8, 4, 7]
    assert seen.student_logits.std(dim=0).min() > 0.01
    assert not seen.teacher_logits.requires_grad
    assert seen.student_logits.requires_grad


def test_the_teacher_classifies_each_region_in_the_image_that_it_lies_in() -> None:
    network = make_detector(3).eval()
    heads: Any = network.roi_heads
    seen, _, regions = DetectorForward(make_detector(), Teacher(network))(batch_of(0, 1, 2))
    assert seen.teacher_logits is not None
    assert regions.image.tolist() == [0] * 16 + [1] * 16 + [2] * 16
    for row, proposals in enumerate(regions.proposals):
        image = regions.images.tensors[row : row + 1]
        with torch.no_grad():
            maps: Any = network.backbone(image)
            pooled = heads.box_roi_pool(maps, [proposals], [regions.images.image_sizes[row]])
            expected = heads.box_predictor(heads.box_head(pooled))[0]
        found = seen.teacher_logits[regions.image == row]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found.flip(0), expected, rtol=1e-2)


class Watched:
    """Notes what a detector's backbone and region pool are given."""

    def __init__(self, detector: FasterRCNN) -> None:
        self.images: list[Tensor] = []
        self.regions: list[tuple[list[Tensor], list[tuple[int, int]]]] = []
        heads: Any = detector.roi_heads
        detector.backbone.register_forward_pre_hook(self._image)
        heads.box_roi_pool.register_forward_pre_hook(self._region)

    def _image(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self.images.append(given[0])

    def _region(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self.regions.append((given[1], given[2]))


def unlike_images() -> DetectionBatch:
    """A wide image of 48 x 64 and a tall one of 96 x 72, with an object each."""
    torch.manual_seed(5)
    boxes = tuple(
        Boxes(torch.tensor([corners]), torch.tensor([label]))
        for corners, label in (([4.0, 6, 30, 40], 1), ([10.0, 50, 60, 90], 2))
    )
    images = torch.rand(3, 48, 64), torch.rand(3, 96, 72)
    return DetectionBatch(images, boxes, torch.tensor([0, 1]))


def test_where_both_resize_alike_the_teacher_sees_the_very_same_images() -> None:
    # several sizes to train at: each image is drawn one, and the teacher is to see that one
    network = make_detector(1)
    watched = Watched(network)
    student = make_detector(min_size=(32, 48, 64))
    forward, batch = DetectorForward(student, Teacher(network)), unlike_images()
    sizes: set[tuple[int, int]] = set()
    for _ in range(16):
        *_, regions = forward(batch)
        assert watched.images[-1] is regions.images.tensors
        assert all(map(torch.equal, watched.regions[-1][0], regions.proposals))
        sizes.add(regions.images.image_sizes[0])
    assert {size[0] for size in sizes} == {32, 48, 64}


def test_regions_are_scaled_where_the_teacher_resizes_otherwise() -> None:
    # The student: shorter side 48. 48 x 64 stays; 96 x 72 becomes 64 x 48.
    # The teacher: shorter side 96, longer at most 110. 48 x 64 grows by 110/64 = 1.71875 to
    # 82.5 x 110, cut to 82; 96 x 72 by 110/96 = 1.1458 to 110 x 82.5, cut to 82.
    network = make_detector(1, min_size=96, max_size=110)
    watched, student = Watched(network), make_detector(min_size=48)
    seen, _, regions = DetectorForward(student, Teacher(network))(unlike_images())
    assert regions.images.image_sizes == [(48, 64), (64, 48)]
    (given, sizes) = watched.regions[-1]
    assert sizes == [(82, 110), (110, 82)]
    wide, tall = regions.proposals
    torch.testing.assert_close(
        given[0], wide * torch.tensor([110 / 64, 82 / 48, 110 / 64, 82 / 48])
    )
    torch.testing.assert_close(
        given[1], tall * torch.tensor([82 / 48, 110 / 64, 82 / 48, 110 / 64])
    )
    # both in one tensor, padded to the next multiple of 32 with nothing
    padded = watched.images[-1]
    assert padded.shape == (2, 3, 128, 128)
    assert (padded[0, :, 82:] == 0).all()
    assert (padded[0, :, :, 110:] == 0).all()
    assert (padded[1, :, 110:] == 0).all()
    assert (padded[1, :, :, 82:] == 0).all()
    assert (padded[0, :, :82, :110] != 0).any(dim=0).all()
    assert seen.teacher_logits is not None
    assert len(seen.teacher_logits) == len(seen.student_logits)


def test_each_detector_normalises_by_its_own_mean_and_spread() -> None:
    network = make_detector(1, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    watched = Watched(network)
    batch = batch_of(0)
    *_, regions = DetectorForward(make_detector(), Teacher(network))(batch)
    mean, std = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([0.5, 0.25, 2.0])
    expected = (batch.image[0] - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(watched.images[-1][0], expected)
    assert not torch.allclose(regions.images.tensors[0], expected, atol=0.1)
    assert all(map(torch.equal, watched.regions[-1][0], regions.proposals))


@pytest.fixture(scope="module")
def seen() -> LossInputs:
    torch.manual_seed(0)
    inputs, *_ = DetectorForward(make_detector(), Teacher(make_detector(1)))(batch_of(0, 1))
    return inputs


def objective_of(seen: LossInputs, temperature: float, **terms: Term) -> Tensor:
    fixed = Temperatures.constant(temperature, like=seen.student_logits)
    return Objective(terms)(replace(seen, temperature=fixed))[0]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_over_regions_is_the_classification_loss_on_the_same_logits(
    seen: LossInputs, temperature: float
) -> None:
    assert seen.teacher_logits is not None
    found = objective_of(seen, temperature, kd=Term(losses.kd))
    same = losses.kd(seen.student_logits, seen.teacher_logits, temperature)
    plain = temperature**2 * F.kl_div(
        F.log_softmax(seen.student_logits / temperature, dim=1),
        F.softmax(seen.teacher_logits / temperature, dim=1),
        reduction="batchmean",
    )
    assert torch.equal(found, same)
    torch.testing.assert_close(found, plain)
    assert plain > 0.01


def test_dkd_over_regions_is_the_classification_loss_on_the_same_logits(seen: LossInputs) -> None:
    assert seen.teacher_logits is not None
    found = objective_of(seen, 4.0, dkd=Term(losses.dkd))
    same = losses.dkd(seen.student_logits, seen.teacher_logits, seen.target, 4.0)
    assert torch.equal(found, same)
    temperatures = Temperatures.constant(4.0, like=seen.student_logits).student.double()
    slowly = dkd_slowly(
        seen.student_logits.double(),
        seen.teacher_logits.double(),
        seen.target.tolist(),
        Temperatures.same(temperatures),
    )
    torch.testing.assert_close(found, slowly.mean().float(), rtol=1e-4, atol=0)
    assert (seen.target == 0).any()
    assert (seen.target > 0).any()


def test_the_supervised_loss_of_a_detector_is_its_own_and_nothing_else(seen: LossInputs) -> None:
    assert seen.student_loss is not None
    found = objective_of(seen, 4.0, cross_entropy=Term(losses.supervised))
    assert torch.equal(found, seen.student_loss)


def test_mixed_precision_does_not_round_boxes_to_whole_pixels() -> None:
    # bfloat16 has 8 bits: between 512 and 1024 it knows every fourth pixel alone
    detector = make_detector(min_size=64, max_size=1024)
    heads: Any = detector.roi_heads
    heads.score_thresh = 0.0
    corners = torch.tensor([[601.3, 10.7, 641.9, 40.2]])
    boxes = (Boxes(corners, torch.tensor([1])),)
    batch = DetectionBatch((torch.rand(3, 64, 960),), boxes, torch.tensor([0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen, _, regions = DetectorForward(detector, None)(batch)
    assert regions.proposals[0].dtype == torch.float32
    assert any(torch.equal(each, corners[0]) for each in regions.proposals[0])
    assert (seen.target > 0).any()
    (found,) = find(detector, list(batch.image), autocast=torch.bfloat16)
    far = found.box[found.box > 512]
    assert len(far) > 10
    assert (far % 4 != 0).float().mean() > 0.5
