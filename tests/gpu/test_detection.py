"""A detector's step where its parts are; what is not torchvision's own, without waiting too."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.gpu.parts import SOURCES, composed, source_of
from tests.gpu.places import CPU, CUDA, Place, places
from tests.support.detection_parts import CLASSES, batch_of
from tests.support.watched_detector import agent_of, watched

from rlkd import TemperatureAgent
from rlkd.engine import build
from rlkd.engine.meters import EpochMeters
from rlkd.exploration import Bands, Explorer
from rlkd.losses import LossInputs
from rlkd.tasks.detection.forward import COPIES, Regions, foreground, jittered
from rlkd.temperature import TemperatureSource

pytestmark = pytest.mark.usefixtures("plainly")
METHODS = ("kd", "dkd", "mlkd", "dist", "nkd", "ttm", "wttm")


@pytest.fixture(params=[CPU, CUDA])
def real(request: pytest.FixtureRequest) -> Place:
    """Where values are, which proposing regions cannot do without."""
    (place,) = places(request.param)
    return place


AGENTS: dict[str, Callable[[], TemperatureSource]] = {
    "next_batch": lambda: agent_of("next_batch"),
    "same_batch": lambda: agent_of("same_batch"),
    "probe": lambda: agent_of("probe", calibration="none"),
}


@pytest.mark.parametrize(
    ("name", "performance"),
    [
        *(pytest.param(each, "foreground", marks=pytest.mark.long) for each in AGENTS),
        ("probe", "loss"),
    ],
)
def test_a_detector_steps_with_an_agent(name: str, performance: str, real: Place) -> None:
    source = AGENTS[name]()
    probe = real.put(batch_of(4, 5)) if name == "probe" else None
    bands = Bands(selected=0.4, mixed=(0.0, 0.0))
    explorer = Explorer(instances=8, num_classes=CLASSES, first_epoch=1, epochs=1, bands=bands)
    made = watched(source, probe=probe, measured=performance, explorer=explorer)
    real.put(made.distiller)
    explorer.active = True
    for row in range(4):
        seen, _ = made.step(real.put(batch_of(row, row + 1)))
    assert seen.student_loss is not None
    real.check(seen.student_loss, *made.distiller.student.parameters(), *source.parameters())
    assert isinstance(source, TemperatureAgent)
    assert source.updates >= 2


def regions(place: Place) -> LossInputs:
    """Sixteen regions of two images, half of them of the background."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 16, CLASSES, generator=generator)
    target = (torch.arange(16) % CLASSES) * (torch.arange(16) % 2)
    return LossInputs(
        student_logits=place.put(student).requires_grad_(),
        target=place.put(target),
        teacher_logits=place.put(teacher),
        student_loss=place.put(torch.tensor(1.0)),
    )


@pytest.mark.parametrize(
    "method",
    [pytest.param(each, marks=() if each == "kd" else pytest.mark.long) for each in METHODS],
)
def test_losses_and_sources_take_regions_without_waiting(method: str, place: Place) -> None:
    objective = build.objective(composed(f"method={method}"))
    seen, meters = regions(place), place.put(EpochMeters())
    for name in SOURCES if method == "kd" else SOURCES[:1]:
        source = place.put(source_of(name, classes=CLASSES))
        with place.without_waiting():
            scored = foreground(seen.target)
            assert seen.teacher_logits is not None
            chosen = source(seen.student_logits, seen.teacher_logits, scored)
            loss, _ = objective(replace(seen, temperature=chosen))
            meters.add_batch(loss, seen.student_logits.detach(), scored)
        place.check(loss, chosen.student, chosen.teacher)


def test_regions_belong_to_images_and_images_to_the_explorer(place: Place) -> None:
    box = place.put(torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 9.0, 5.0]]))
    around = jittered(box, COPIES, torch.Generator().manual_seed(0))
    images: Any = None
    explorer = place.put(
        Explorer(instances=4, num_classes=CLASSES, first_epoch=1, epochs=1, bands=Bands())
    )
    index = place.put(torch.tensor([3, 1]))
    logits = regions(place).student_logits.detach()
    with place.without_waiting():
        of_image = Regions(images, [around, around]).image
        explorer.record.update_by_parts(index, logits, of_image)
        learnt = explorer.selected[index][of_image]
    place.check(around, of_image, learnt, explorer.record.entropy.nan_to_num())
