"""Scores of a detector for a reward: repeatable, and without a trace."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.support.detection_parts import (
    CLASSES,
    as_torchvision_wants,
    batch_of,
    emptied,
    everything_of,
    make_detector,
    same,
)
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.ops import box_iou

from rlkd.models.eval_mode import frozen_statistics
from rlkd.tasks.detection.forward import COPIES, DetectorForward, jittered
from rlkd.types import DetectionBatch

Score = Callable[[DetectorForward, DetectionBatch], Tensor]


def logits_around(forward: DetectorForward, batch: DetectionBatch) -> Tensor:
    return forward.logits(forward.around(batch)[0])


def logits_of_training(forward: DetectorForward, batch: DetectionBatch) -> Tensor:
    with (
        torch.random.fork_rng(devices=[]),
        frozen_statistics(forward.student),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
    ):
        torch.manual_seed(0)
        *_, regions = forward(batch)
    return forward.logits(regions)


def own_loss(forward: DetectorForward, batch: DetectionBatch) -> Tensor:
    return forward.loss(batch)


SCORES: dict[str, Score] = {
    "around boxes": logits_around,
    "on training's regions": logits_of_training,
    "loss": own_loss,
}


def trained_a_little(seed: int = 0) -> FasterRCNN:
    """A detector with statistics, gradients and a part in a mode of its own."""
    made = make_detector(seed, min_size=(48, 64))
    DetectorForward(made, None)(batch_of(3))[0].student_loss.backward()  # pyright: ignore[reportOptionalMemberAccess]
    made.backbone.fpn.eval()  # pyright: ignore[reportCallIssue]
    return made


@pytest.mark.parametrize("name", SCORES)
def test_scoring_leaves_no_trace(name: str) -> None:
    student = trained_a_little()
    forward = DetectorForward(student, None)
    torch.manual_seed(11)
    before = everything_of(student)
    found = SCORES[name](forward, batch_of(0, 1))
    assert not found.requires_grad
    assert found.dtype == torch.float32
    assert same(everything_of(student), before)


def test_a_trace_would_be_seen() -> None:
    student = trained_a_little()
    before = everything_of(student)
    DetectorForward(student, None)(batch_of(0, 1))
    after = everything_of(student)
    assert not same(after["state"], before["state"])
    assert not same(after["generator"], before["generator"])


@pytest.mark.parametrize("name", SCORES)
def test_a_score_is_of_the_weights_of_its_moment_alone(name: str) -> None:
    student = trained_a_little()
    forward, batch, score = DetectorForward(student, None), batch_of(0, 1), SCORES[name]
    torch.manual_seed(1)
    first = score(forward, batch)
    torch.manual_seed(2)
    forward(batch_of(2))  # moves statistics and draws
    assert torch.equal(score(forward, batch), first)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.01
    assert not torch.allclose(score(forward, batch), first)


@pytest.mark.parametrize("name", SCORES)
def test_casts_from_before_an_update_are_not_scored(name: str) -> None:
    student, score = make_detector(), SCORES[name]
    twin = make_detector()
    batch = batch_of(0, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        forward = DetectorForward(student, None)
        seen, *_ = forward(batch)  # fills the cache
        assert seen.student_loss is not None
        seen.student_loss.backward()
        for detector in (student, twin):
            for parameter in detector.parameters():
                parameter.data += 0.01
        found = score(forward, batch)
        again, *_ = forward(batch)  # casts made in scoring carry no gradient
        assert again.student_loss is not None
        student.zero_grad()
        again.student_loss.backward()
        head: Any = student.roi_heads
        assert head.box_predictor.cls_score.weight.grad.abs().sum() > 0
    torch.clear_autocast_cache()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = score(DetectorForward(twin, None), batch)
    assert torch.equal(found, expected)


def test_the_loss_is_torchvisions_own() -> None:
    student, twin, batch = make_detector(), make_detector(), batch_of(0, 1)
    found = DetectorForward(student, None).loss(batch)
    torch.manual_seed(0)
    expected: Any = twin(list(batch.image), as_torchvision_wants(batch.boxes))
    torch.testing.assert_close(found, sum(expected.values()).detach())


def test_one_image_or_none_with_objects_can_be_scored() -> None:
    forward = DetectorForward(make_detector(), None)
    for batch in (batch_of(0), emptied(batch_of(0, 1), 0, 1), emptied(batch_of(0, 1), 1)):
        assert torch.isfinite(forward.loss(batch))
        regions, label = forward.around(batch)
        logits = forward.logits(regions)
        assert logits.shape == (len(label), CLASSES)
        assert len(label) == COPIES * sum(len(each.box) for each in batch.boxes)
        assert torch.isfinite(logits).all()
        assert len(regions.image) == len(label)


@pytest.mark.parametrize("seed", range(20))
def test_jittered_regions_overlap_their_box_by_more_than_a_half(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = 600 * torch.rand(50, 2, generator=generator)
    size = 1 + 400 * torch.rand(50, 2, generator=generator) ** 3
    box = torch.cat((corner, corner + size), dim=1)
    found = jittered(box, 6, generator)
    assert found.shape == (300, 4)
    overlap = box_iou(box.double(), found.double())
    own = overlap[torch.arange(50).repeat_interleave(6), torch.arange(300)]
    # at worst both sides shrink by 15 % and move by 10 %: 0.825^2 / (1 + 0.85^2 - 0.825^2) = 0.65
    assert own.min() > 0.65
    assert own.max() < 1
    assert own.std() > 0.03
    assert len(found.unique(dim=0)) == 300


def test_no_boxes_have_no_jittered_regions() -> None:
    assert jittered(torch.zeros(0, 4), 4, torch.Generator()).shape == (0, 4)


def test_regions_around_boxes_are_the_same_at_every_call_and_know_their_class() -> None:
    # several sizes to train at: the last is evaluation's, and twice the images' 64 pixels
    student, batch = make_detector(min_size=(48, 128), max_size=200), batch_of(0, 1)
    forward = DetectorForward(student, None)
    torch.manual_seed(3)
    draws = torch.random.get_rng_state()
    regions, label = forward.around(batch)
    assert torch.equal(torch.random.get_rng_state(), draws)
    assert student.transform.training
    again, label_again = DetectorForward(
        make_detector(9, min_size=(48, 128), max_size=200), None
    ).around(batch)
    assert all(map(torch.equal, regions.proposals, again.proposals))
    assert torch.equal(label, label_again)
    assert regions.images.image_sizes == [(128, 128)] * 2
    boxes = [2 * each.box for each in batch.boxes]
    assert [len(each) for each in regions.proposals] == [COPIES * len(each) for each in boxes]
    expected: list[int] = []
    for proposals, box, each in zip(regions.proposals, boxes, batch.boxes, strict=True):
        overlap = box_iou(proposals, box)
        assert overlap.max(dim=1).values.min() > 0.5
        assert torch.equal(overlap.argmax(dim=1), torch.arange(len(box)).repeat_interleave(COPIES))
        expected += [kind for kind in each.label.tolist() for _ in range(COPIES)]
    assert label.tolist() == expected
    assert len(set(expected)) > 1
