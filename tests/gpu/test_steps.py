"""Whole training steps: loader, exploration, networks, temperatures, losses, update, meters."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.gpu.parts import CLASSES, Pair
from tests.gpu.places import Place, places
from tests.marks import but_long
from torch import Tensor, nn

from rlkd import RandomTemperature, TemperatureAgent, models
from rlkd.data import ImageSet, MemoryLoader
from rlkd.data.transforms.mixing import Mix, Mixing
from rlkd.engine.averaging import MovingAverage
from rlkd.engine.module import StudentModule
from rlkd.exploration import Bands, Explorer
from rlkd.tasks.classification.forward import ClassifierForward, Labels
from rlkd.temperature import ConstantTemperature, GlobalCTKD, InstanceCTKD, TemperatureSource

pytestmark = pytest.mark.usefixtures("plainly")
IMAGES, BATCH = 24, 6
AGENT = partial(
    TemperatureAgent, hidden=8, update_interval=2, epochs=1, minibatches=2, probe_interval=1
)


def recorded() -> RandomTemperature:
    """Follow a run's distribution."""
    source = RandomTemperature()
    source.recorded = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]]
    return source


SOURCES: dict[str, Callable[[], TemperatureSource]] = {
    "the paper's agent": partial(AGENT, calibration="recurrent", discount=0.99, gae_lambda=0.95),
    "measured on the batch again": partial(AGENT, reward_source="same_batch", metric="loss"),
    "with a probe": partial(AGENT, reward_source="probe", max_instances=5),
    "without calibration or updater": partial(AGENT, calibration="none", state_updater=False),
    "at random": RandomTemperature,
    "at random, as a run was": recorded,
    "ctkd": GlobalCTKD,
    "ctkd by instance": partial(InstanceCTKD, num_classes=CLASSES),
    "constant": ConstantTemperature,
}
SLOW = {*SOURCES} - {"with a probe", "constant", "ctkd", "at random"}
"""Left to the long tests: a GPU that is not there takes seconds to answer."""


def images(count: int, seed: int) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(count) % CLASSES, tuple(map(str, range(CLASSES))))


class Steps:
    """A module's own steps and loader, without a Trainer around them.

    Args:
        method: gives the losses.
        source: of temperatures.
        place: where.
        explored: whether a band of the images is mixed and another learnt from.
    """

    def __init__(
        self, method: str, source: TemperatureSource, place: Place, *, explored: bool
    ) -> None:
        pair = Pair(method, place, fuse=method == "kd")
        loading: dict[str, Any] = {"mean": (0.5,), "std": (0.5,), "device": place.device}
        self.loader = MemoryLoader(
            images(IMAGES, 0),
            batch_size=BATCH,
            shuffle=True,
            crop_padding=1,
            flip=True,
            strong_view=pair.objective.strong,
            **loading,
        )
        held = MemoryLoader(images(BATCH, 1), batch_size=BATCH, shuffle=False, **loading)
        explorer = Explorer(
            instances=IMAGES,
            num_classes=CLASSES,
            first_epoch=1,
            epochs=1 if explored else 0,
            bands=Bands(),
        )
        probed = isinstance(source, TemperatureAgent) and source.reward.source == "probe"
        pair.forward.probe = next(iter(held)) if probed else None
        self.module = StudentModule(
            student=pair.student,
            forward_pass=pair.forward,
            loader=self.loader,
            objective=pair.objective,
            optimizer=partial(torch.optim.SGD, lr=0.05, momentum=0.9),
            teacher=pair.teacher,
            temperature=place.put(source),
            explorer=place.put(explorer),
        )
        place.put(self.module.meters)
        self.module.bad_step = place.put(self.module.bad_step)
        optimizer = self.module.configure_optimizers()
        vars(self.module)["optimizers"] = lambda: optimizer
        vars(self.module)["manual_backward"] = lambda loss: loss.backward()
        vars(self.module)["_trainer"] = SimpleNamespace(
            strategy=None, global_step=0, current_epoch=0
        )

    def epoch(self, place: Place, *, warm: int) -> None:
        """Train an epoch; after some steps, none may wait for the device, nor may the loader."""
        self.module.enter_epoch(0, start=0)
        batches = iter(self.loader)
        for _ in range(warm):
            self.module.training_step(next(batches), 0)
        with place.without_waiting():
            for batch in batches:
                self.module.training_step(batch, 0)


@pytest.mark.parametrize(
    ("name", "explored"),
    [
        *(
            pytest.param(name, True, marks=pytest.mark.long if name in SLOW else ())
            for name in SOURCES
        ),
        pytest.param("with a probe", False, marks=pytest.mark.long),
    ],
)
def test_no_step_with_a_source_waits_for_the_device(
    name: str, explored: bool, place: Place
) -> None:
    source = SOURCES[name]()
    steps = Steps("kd", source, place, explored=explored)
    assert steps.module.explorer is not None
    steps.epoch(place, warm=1)
    module = steps.module
    place.check(*module.student.parameters(), *source.parameters(), module.meters.totals)
    place.check(module.explorer.record.entropy.nan_to_num(), *source.diagnostics().values())
    assert source.updates >= isinstance(source, TemperatureAgent)


@pytest.mark.long
def test_no_step_with_a_strong_view_waits_for_the_device(place: Place) -> None:
    steps = Steps("mlkd", ConstantTemperature(), place, explored=True)
    assert steps.module.explorer is not None
    assert steps.loader.strong_view
    steps.epoch(place, warm=1)
    place.check(*steps.module.student.parameters())


@pytest.mark.parametrize("kind", but_long(["mixup", "cutmix"], "cutmix"))
def test_no_step_that_averages_mixes_and_weights_waits_for_the_device(
    kind: Mix, place: Place
) -> None:
    steps = Steps("kd", ConstantTemperature(), place, explored=False)
    module, forward = steps.module, steps.module.forward_pass
    assert isinstance(forward, ClassifierForward)
    forward.labels = Labels(0.1, torch.ones(CLASSES))
    network = models.create("convnet_tiny", num_classes=CLASSES, in_channels=1)
    module.averaged = place.put(MovingAverage(network, 0.9))
    module.mixing = Mixing(kind, alpha=1.0, num_classes=CLASSES, seed=0)
    steps.epoch(place, warm=1)
    place.check(*module.student.parameters(), *module.averaged.parameters())


class Overwriting(nn.Module):
    """Calls a network, and spoils what the call before returned, as CUDA graphs do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.held = network, torch.zeros(1)

    def forward(self, image: Tensor) -> Tensor:
        self.held.detach().fill_(torch.nan)
        self.held = self.network(image).clone()
        return self.held


@pytest.mark.parametrize("name", ["measured on the batch again", "with a probe"])
def test_nothing_reads_logits_that_a_later_call_overwrites(name: str) -> None:
    (place,) = places("cpu")
    steps = Steps("kd", SOURCES[name](), place, explored=True)
    module = steps.module
    module.student = Overwriting(module.student)
    assert module.teacher is not None
    assert isinstance(module.forward_pass, ClassifierForward)
    module.forward_pass = ClassifierForward(
        module.student, Overwriting(module.teacher), probe=module.forward_pass.probe
    )
    steps.epoch(place, warm=0)
    assert module.explorer is not None
    place.check(module.explorer.record.entropy.nan_to_num(), module.meters.totals)
    place.check(*module.student.parameters(), *module.temperature.parameters())


@pytest.mark.parametrize("calibration", but_long(["additive", "recurrent", "none"], "additive"))
def test_an_agent_goes_on_where_it_is_moved_to(calibration: str, place: Place) -> None:
    """As a checkpoint of any device is: read on the CPU, and then put where the run is."""
    agent, copy = (AGENT(calibration=calibration) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, BATCH, CLASSES, generator=generator) for _ in range(6)]
    target = torch.arange(BATCH) % CLASSES

    def act(one: TemperatureAgent, batch: Tensor) -> None:
        one(batch[0], batch[1], target.to(batch.device))

    for batch in logits[:4]:  # it has learnt once, one trajectory is closed and one open
        act(agent, batch)
    assert agent.updates == 1
    copy.load_state_dict(agent.state_dict())
    place.put(copy)
    with place.without_waiting():
        place.check(*copy.diagnostics().values())
    for batch in place.put(logits[4:]):
        act(copy, batch)
    assert copy.updates == 2
    place.check(*copy.parameters(), *copy.diagnostics().values())
