"""A training step never waits for a device: no value is read back, no shape depends on one."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.agent.loop import CLASSES, Logits, drive, logits_of, make_agent
from tests.marks import but_long
from torch.utils._python_dispatch import TorchDispatchMode

from rlkd.checks import values_unchecked
from rlkd.losses import kd
from rlkd.temperature import RandomTemperature
from rlkd.temperature.look_ahead import Gains, gains

READS_BACK = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select"),
    *("_unique2", "unique_dim", "unique_consecutive", "bincount", "_linalg_check_errors"),
}


@pytest.fixture(autouse=True)
def as_on_a_device() -> Iterator[None]:
    """The CPU stands in for a device here, and a device's values are not checked."""
    with values_unchecked():
        yield


class NoSync(TorchDispatchMode):
    """Raises where a device would have to be waited for; counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        self.calls[name] += 1
        reads_back = name in READS_BACK or any(
            index is not None and index.dtype in (torch.bool, torch.uint8)
            for index in (args[1] if name in ("index", "index_put", "index_put_") else ())
        )
        if name == "_to_copy" and kwargs.get("device") is not None:
            reads_back = torch.device(kwargs["device"]) != args[0].device
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            reads_back = True
        # Adam keeps its step counts on the host, whatever device its weights are on.
        if reads_back and not called_from_the_optimiser():
            raise AssertionError(f"aten.{name} waits for the device")
        return func(*args, **kwargs)


def called_from_the_optimiser() -> bool:
    frame = inspect.currentframe()
    while frame is not None:
        if "/torch/optim/" in frame.f_code.co_filename.replace("\\", "/"):
            return True
        frame = frame.f_back
    return False


@pytest.mark.parametrize(
    ("source", "metric"), [("next_batch", "accuracy"), ("same_batch", "loss"), ("probe", "loss")]
)
@pytest.mark.parametrize("calibration", but_long(["additive", "recurrent", "none"], "recurrent"))
def test_no_step_of_the_agent_waits_for_the_device(
    source: str, metric: str, calibration: str
) -> None:
    agent = make_agent(
        reward_source=source,
        metric=metric,
        calibration=calibration,
        probe_interval=1,
        epochs=1,
    )
    drive(agent, range(3))  # the first use of an optimiser allocates
    updates = agent.updates
    batches = [logits_of(batch) for batch in range(6)]
    chosen = torch.arange(8) != 2
    soft = torch.nn.functional.one_hot(batches[0].target, CLASSES).float()
    with NoSync():
        for number, seen in enumerate(batches):
            target = soft if number % 2 else seen.target
            agent(seen.student, seen.teacher, target, learn_from=None if number % 3 else chosen)
            if agent.observation_due:
                agent.observe(agent.performance(seen.teacher, seen.target))
    assert agent.updates >= updates + 2


@pytest.mark.parametrize("more", [{}, {"state": "extended", "two_actions": True}])
def test_no_look_ahead_waits_for_the_device(more: dict[str, Any]) -> None:
    agent = make_agent(reward_source="look_ahead", probe_interval=2, equal_steps=True, **more)
    batches = [logits_of(batch) for batch in range(8)]

    def train(seen: Logits) -> None:
        if agent.look_ahead_due:
            moving = seen.teacher

            def gain_of(of: Any) -> Gains:
                return gains(lambda z: kd(z, seen.teacher, of(z)), seen.student, moving)

            agent.start_step(0.1)
            agent.look_ahead(gain_of)
        agent(seen.student, seen.teacher, seen.target)

    for seen in batches[:3]:
        train(seen)
    updates = agent.updates
    with NoSync():
        for seen in batches[3:]:
            train(seen)
    assert agent.updates >= updates + 2


@pytest.mark.parametrize("discount", [0.0, 0.99])
def test_neither_form_of_the_return_waits_for_the_device(discount: float) -> None:
    agent = make_agent(discount=discount, gae_lambda=0.95)
    with NoSync():
        for batch in range(6):
            seen = logits_of(batch)
            agent(seen.student, seen.teacher, seen.target)
    assert agent.updates == 2


def test_the_random_control_does_not_wait_for_the_device() -> None:
    source = RandomTemperature()
    with NoSync():
        drive(source, range(3))


@pytest.mark.parametrize("calibration", ["additive", "recurrent", "none"])
def test_the_number_of_operations_does_not_depend_on_the_number_of_instances(
    calibration: str,
) -> None:
    counts: list[int] = []
    for rows in (8, 40):
        agent = make_agent(calibration=calibration)
        mode = NoSync()
        batches = [logits_of(batch, rows=rows) for batch in range(3)]
        with mode:
            for seen in batches:
                agent(seen.student, seen.teacher, seen.target)
        assert agent.updates == 1
        counts.append(sum(mode.calls.values()))
    # What the LSTM does inside its one call is its own affair.
    assert counts[0] == counts[1] or calibration == "recurrent"


def inverted(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.inv(x @ x.T + 4 * torch.eye(4))  # reads back whether it can


def ways_to_wait() -> list[Callable[[torch.Tensor], object]]:
    return [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x.clone()),
        lambda x: x.to("meta"),
        inverted,
    ]


@pytest.mark.parametrize("way", ways_to_wait())
def test_every_way_to_wait_is_caught(way: Callable[[torch.Tensor], object]) -> None:
    x = torch.randn(4, 4)
    with pytest.raises(AssertionError, match="waits for the device"), NoSync():
        way(x)
