"""A resumed run goes on as the uninterrupted one, bit for bit."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.agent.loop import drive, make_agent
from torch import nn

from rlkd.agent import TemperatureAgent
from rlkd.temperature import RandomTemperature, TemperatureSource

SOURCES = ["next_batch", "same_batch", "probe"]
STEPS = 10


def carried_over(module: nn.Module, fresh: nn.Module) -> None:
    """Save and load as a careful user does: nothing but tensors and plain values."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))


def assert_same(one: Any, other: Any, where: str = "state") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}.{number}")
    else:
        assert one == other, where


def chosen(batch: int) -> torch.Tensor:
    return torch.arange(8) % 3 != batch % 3


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("calibration", "stopped"),
    [
        ("recurrent", 5),
        ("none", 2),
        pytest.param("additive", 5, marks=pytest.mark.long),
        pytest.param("none", 5, marks=pytest.mark.long),
    ],
)
def test_a_resumed_agent_equals_the_uninterrupted_one(
    source: str, calibration: str, stopped: int
) -> None:
    options: dict[str, Any] = {
        "reward_source": source,
        "calibration": calibration,
        "probe_interval": 2,
        "update_interval": 2,
        "epochs": 1,
        "initial_std": 0.7,
    }
    whole = make_agent(seed=1, **options)
    expected = drive(whole, range(STEPS), learn_from=chosen)
    first, second = make_agent(seed=1, **options), make_agent(seed=99, **options)
    found = drive(first, range(stopped), learn_from=chosen)
    carried_over(first, second)
    found += drive(second, range(stopped, STEPS), learn_from=chosen)
    assert whole.updates >= 2
    for batch, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert torch.equal(one, other), f"batch {batch}"
    assert_same(whole.state_dict(), second.state_dict())


def test_a_checkpoint_before_the_first_call_restores_the_seed_too() -> None:
    first, second = make_agent(seed=1), make_agent(seed=99)
    second.load_state_dict(first.state_dict())
    assert all(map(torch.equal, drive(first, range(6)), drive(second, range(6))))


def test_without_the_checkpoint_the_runs_would_differ() -> None:
    expected = drive(make_agent(seed=1), range(8))
    assert not torch.equal(drive(make_agent(seed=99), range(8))[-1], expected[-1])


def test_the_epoch_and_the_figures_survive() -> None:
    first, second = make_agent(warmup_epochs=2), make_agent(warmup_epochs=2)
    first.start_epoch(3)
    drive(first, range(5))
    carried_over(first, second)
    assert second.acts
    assert second.updates == first.updates == 2
    figures, restored = first.diagnostics(), second.diagnostics()
    assert all(torch.equal(restored[name], figures[name]) for name in restored)
    assert "approx_kl" in restored


def test_a_saved_state_does_not_change_as_training_goes_on() -> None:
    file, agent = io.BytesIO(), make_agent()
    drive(agent, range(5))
    torch.save(agent.state_dict(), file)
    restored = make_agent(seed=5)
    drive(agent, range(5, 9))
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert restored.updates == 2 < agent.updates


@pytest.mark.parametrize("stopped", [0, 3])
def test_a_resumed_random_control_equals_the_uninterrupted_one(stopped: int) -> None:
    first, second = RandomTemperature(seed=1), RandomTemperature(seed=99)
    expected = drive(RandomTemperature(seed=1), range(6))
    found = drive(first, range(stopped))
    carried_over(first, second)
    found += drive(second, range(stopped, 6))
    assert all(map(torch.equal, expected, found))


def test_a_resumed_random_control_knows_its_epoch_without_being_told() -> None:
    first, second = (RandomTemperature(seed=1, warmup_epochs=2) for _ in range(2))
    first.start_epoch(3)
    carried_over(first, second)
    (expected,), (found,) = drive(first, range(1)), drive(second, range(1))
    assert torch.equal(expected, found)
    assert found.std() > 0  # not the warm-up's constant


@pytest.mark.parametrize("make", [make_agent, RandomTemperature])
@pytest.mark.parametrize("bytes_of_state", [16, 44])
def test_a_generator_of_another_kind_of_device_starts_afresh(
    make: Callable[..., TemperatureSource], bytes_of_state: int
) -> None:
    """A GPU's generator has a state of 16 bytes, on which the CPU's stops with a RuntimeError."""
    first, second, third = make(seed=1), make(seed=99), make(seed=99)
    drive(first, range(3))
    state = first.state_dict()
    extra = state["_extra_state"]
    assert len(extra["generator"][1]) == 5056
    extra["generator"] = (1, torch.arange(bytes_of_state, dtype=torch.uint8))
    second.load_state_dict(copy.deepcopy(state))
    third.load_state_dict(copy.deepcopy(state))
    found = drive(second, range(3, 6))
    assert all(map(torch.equal, found, drive(third, range(3, 6))))
    assert len(torch.stack(found[:1]).unique()) > 1
    saved = second.state_dict()["_extra_state"]["generator"]
    assert saved[0] == 1
    assert len(saved[1]) == 5056


def test_an_agent_copied_by_deepcopy_learns_apart() -> None:
    agent = make_agent()
    drive(agent, range(5))
    twin = copy.deepcopy(agent)
    assert isinstance(twin, TemperatureAgent)
    assert all(map(torch.equal, drive(agent, range(5, 12)), drive(twin, range(5, 12))))
