"""The training step of a detector: what a source is told and what it is paid."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.support.detection_parts import (
    as_torchvision_wants,
    batch_of,
    emptied,
    make_detector,
)
from tests.support.watched_detector import Spy, agent_of, watched
from torch import Tensor

from rlkd.tasks.detection.forward import foreground
from rlkd.types import IGNORED, DetectionBatch


def accuracy(logits: Tensor, label: Tensor) -> float:
    """Of the regions that hold an object, one by one."""
    rows = [row for row, each in enumerate(label.tolist()) if each > 0]
    right = [int(logits[row].argmax()) == int(label[row]) for row in rows]
    return sum(right) / len(right) if right else 0.0


def test_a_source_is_told_of_every_region_and_which_are_not_scored() -> None:
    source = Spy(asks=False)
    seen, regions = watched(source).step(batch_of(0, 1))
    ((student_logits, teacher_logits, target, learn_from),) = source.called
    assert len(student_logits) == len(regions.image) == 32
    assert torch.equal(student_logits, seen.student_logits)
    assert torch.equal(teacher_logits, seen.teacher_logits)  # pyright: ignore[reportArgumentType]
    expected = [label if label else IGNORED for label in seen.target.tolist()]
    assert target.tolist() == expected
    assert IGNORED in expected
    assert max(expected) > 0
    assert learn_from is None
    assert source.measured == []


def test_without_a_probe_the_same_regions_are_measured_again_after_the_update() -> None:
    source = Spy()
    made = watched(source)
    seen, regions = made.step(batch_of(0, 1))
    ((logits, target),) = source.measured
    assert torch.equal(target, foreground(seen.target))
    assert torch.equal(logits, made.forward.logits(regions))
    assert not torch.allclose(logits, seen.student_logits, atol=1e-4)
    assert source.observed == [torch.tensor(0.25)]


def test_a_probe_is_measured_on_regions_around_its_boxes() -> None:
    source, probe = Spy(probed=True), batch_of(4, 5)
    made = watched(source, probe=probe)
    made.step(batch_of(0, 1))
    made.step(batch_of(2, 3))
    (_, target), (logits, target_again) = source.measured
    regions, label = made.forward.around(probe)
    assert torch.equal(target, label)
    assert torch.equal(target_again, label)
    assert (label > 0).all()
    assert torch.equal(logits, made.forward.logits(regions))


@pytest.mark.parametrize("probed", [True, False])
def test_performance_may_be_minus_the_detectors_loss(probed: bool) -> None:
    source, probe = Spy(probed=probed), batch_of(4, 5)
    made = watched(source, probe=probe if probed else None, measured="loss")
    made.step(batch_of(0, 1))
    made.step(batch_of(2, 3))
    scored = probe if probed else batch_of(2, 3)
    twin = make_detector()
    twin.load_state_dict(made.distiller.student.state_dict())
    torch.manual_seed(0)
    expected: Any = twin(list(scored.image), as_torchvision_wants(scored.boxes))
    assert source.measured == []
    torch.testing.assert_close(source.observed[-1], -sum(expected.values()).detach())


def rewards_of(source: str, probe: DetectionBatch | None, batches: int) -> tuple[list[float], ...]:
    """Return what an agent was paid, and accuracies: before, after, and on the probe after."""
    agent = agent_of(source)
    made = watched(agent, probe=probe)
    paid: list[float] = []
    before: list[float] = []
    after: list[float] = []
    on_probe: list[float] = []
    for row in range(batches):
        updates = agent.updates
        seen, regions = made.step(batch_of(row, row + 1))
        before.append(accuracy(seen.student_logits, seen.target))
        after.append(accuracy(made.forward.logits(regions), seen.target))
        if source == "probe" and probe is not None:
            around, label = made.forward.around(probe)
            on_probe.append(accuracy(made.forward.logits(around), label))
        if agent.updates > updates:
            paid.append(agent.diagnostics()["reward"].item())
    return paid, before, after, on_probe


def test_the_next_batch_pays_by_the_accuracy_on_its_regions_with_objects() -> None:
    paid, before, _, _ = rewards_of("next_batch", None, 5)
    assert paid == pytest.approx([b - a for a, b in pairwise(before)])
    assert len({*before}) > 1


@pytest.mark.parametrize("probed", [True, False])
def test_the_same_batch_pays_from_before_its_update_to_after(probed: bool) -> None:
    paid, before, after, _ = rewards_of("same_batch", batch_of(4, 5) if probed else None, 4)
    assert paid == pytest.approx([b - a for a, b in zip(before, after, strict=True)])
    assert any(paid)


def test_a_probe_pays_by_the_accuracy_around_its_boxes() -> None:
    paid, _, _, probed = rewards_of("probe", batch_of(4, 5, 6, 7), 5)
    assert paid == pytest.approx([b - a for a, b in pairwise(probed)])
    assert any(paid)


def test_a_batch_without_objects_has_a_performance_of_nought() -> None:
    agent = agent_of("same_batch")
    made = watched(agent)
    made.step(emptied(batch_of(0, 1), 0, 1))
    figures = agent.diagnostics()
    assert figures["reward"] == 0
    assert all(each.isfinite() for each in figures.values())
    assert all(each.student.isfinite().all() for each in made.temperatures)
    assert made.distiller.bad_step == -1
    made.step(emptied(batch_of(2), 0))  # one image, nothing on it
    assert all(each.isfinite() for each in agent.diagnostics().values())
    assert made.distiller.bad_step == -1
    assert made.distiller.meters.read()["train/accuracy"] == 0


def test_the_epochs_accuracy_is_that_of_the_regions_with_objects() -> None:
    made = watched(Spy(asks=False))
    logits, labels = [], []
    for rows in ((0, 1), (2, 3), (4,)):
        seen, _ = made.step(batch_of(*rows))
        logits.append(seen.student_logits.detach())
        labels.append(seen.target)
    found = made.distiller.meters.read()["train/accuracy"]
    assert found == pytest.approx(accuracy(torch.cat(logits), torch.cat(labels)))
    assert found > 0


def test_a_detector_that_trains_alone_has_its_own_loss_alone() -> None:
    made = watched(None)
    seen, _ = made.step(batch_of(0, 1))
    assert made.temperatures == []
    assert seen.teacher_logits is None
    read = made.distiller.meters.read()
    assert seen.student_loss is not None
    assert read["train/loss"] == pytest.approx(seen.student_loss.item(), rel=1e-6)
    assert "temperature/mean" not in read
