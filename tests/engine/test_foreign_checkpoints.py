"""Checkpoints whose checksum is right and whose content is not this run's."""

import copy
import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from benchmarks.mutations import mutated
from tests.marks import but_long
from tests.support.runs import SOURCES, as_users_call, silent, tiny_config, write_teacher

from rlkd.engine import run as running
from rlkd.engine.checkpoint_content import content_fault
from rlkd.engine.module import StudentModule
from rlkd.engine.run_folder import RunFolder

STEP = 8
"""The second of the three batches of the third epoch."""
Change = Callable[[dict[str, Any]], object]


class Begun:
    """A run that stands at a step, with what goes on from there."""

    def __init__(self, folder: Path, *more: str) -> None:
        teacher = write_teacher(folder / "teacher.pth")
        self.config = tiny_config(teacher, folder / "run", *more)
        self.folder = RunFolder(folder / "run")
        running.run(self.config, console=silent())
        self.student = self.folder.student.read_bytes()
        self.place = self.folder.checkpoints.place(STEP)
        self.held: dict[str, Any] = torch.load(self.place, weights_only=True)
        self.folder.result.unlink()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(running, "content_fault", self._seen)
            with pytest.raises(StopIteration):
                running.run(self.config, console=silent())

    def _seen(self, place: Path, trainer: L.Trainer, module: StudentModule) -> str | None:
        self.trainer, self.module = trainer, module
        raise StopIteration

    def fault_after(self, change: Change, place: Path) -> str | None:
        held = copy.deepcopy(self.held)
        change(held)
        torch.save(held, place)
        return content_fault(place, self.trainer, self.module)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Begun]:
    with as_users_call():
        yield Begun(
            tmp_path_factory.mktemp("begun"),
            *SOURCES["rlkd"],
            "trainer.checkpoint_every_steps=1",
            "trainer.keep_checkpoints=20",
        )


def state(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda held: held["state_dict"][name]


def agent(held: dict[str, Any]) -> dict[str, Any]:
    return held["state_dict"]["temperature._extra_state"]


def put(key: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return what replaces an entry, which dots may lead to."""

    def change(held: dict[str, Any]) -> None:
        *path, last = key if isinstance(key, tuple) else (key,)
        for each in path:
            held = held[each]
        held[last] = value

    return change


SGD = ("optimizer_states", 0)
EXTRA = ("state_dict", "temperature._extra_state")
PPO = ("state_dict", "temperature.learner._extra_state", "ppo")
LOOPS = ("loops", "fit_loop")
STEPS_3 = {"state": torch.ones(3, 3), "raw_action": torch.ones(3), "mask": torch.ones(2)}
CHANGES: dict[str, tuple[Change, str]] = {
    "nothing but weights": (
        lambda held: [held.pop(each) for each in [*held] if each != "state_dict"],
        "lacks",
    ),
    "no loops": (lambda held: held.pop("loops"), "it lacks loops"),
    "empty loops": (put("loops", {"fit_loop": {}}), "loops"),
    "another epoch": (put("epoch", 0), "loops and epoch differ"),
    "a negative epoch": (put("epoch", -1), "no count"),
    "another step": (put("global_step", 9), "differ"),
    "an endless step": (put("global_step", 10**30), "differ"),
    "more batches than there are": (put(("rlkd", "batches_done"), 400), "differ"),
    "no history": (put(("rlkd", "history"), []), "history"),
    "another's history": (put(("rlkd", "history"), [{"epoch": 7}, {"epoch": 8}]), "history"),
    "a weight less": (
        lambda held: held["state_dict"].pop("student.fc.bias"),
        "student.fc.bias is missing",
    ),
    "a weight more": (put(("state_dict", "student.more"), torch.ones(1)), "Unexpected key"),
    "another shape": (put(("state_dict", "student.fc.weight"), torch.ones(10, 9)), "another shape"),
    "another dtype": (
        put(("state_dict", "student.fc.bias"), torch.ones(10).double()),
        "another shape",
    ),
    "a text for weights": (put(("state_dict", "student.fc.bias"), "ones"), "no plain tensor"),
    "sparse weights": (
        put(("state_dict", "student.fc.bias"), torch.ones(10).to_sparse()),
        "no plain",
    ),
    "NaN weights": (
        put(("state_dict", "student.fc.bias"), torch.full((10,), torch.nan)),
        "not finite",
    ),
    "NaN in the policy": (
        put(
            ("state_dict", "temperature.learner.actor.network.4.bias"),
            torch.tensor([0.0, torch.nan]),
        ),
        "not finite",
    ),
    "variances below 0": (
        put(("state_dict", "student.layers.0.1.running_var"), -torch.ones(4)),
        "below 0",
    ),
    "a diverged loss": (put(("state_dict", "bad_step"), torch.tensor(3)), "loss was not finite"),
    "a partner that is none": (
        put(("state_dict", "explorer.partner"), torch.full((48,), 48)),
        "names no instance",
    ),
    "no moments": (put((*SGD, "state"), {}), "state is missing"),
    "moments of another shape": (
        put((*SGD, "state", 0, "momentum_buffer"), torch.ones(4)),
        "another shape",
    ),
    "NaN moments": (
        put((*SGD, "state", 7, "momentum_buffer"), torch.full((10,), torch.nan)),
        "not finite",
    ),
    "moments of more weights": (put((*SGD, "state", 99), {}), "other weights"),
    "a group less": (put((*SGD, "param_groups"), []), "parameter groups"),
    "a rate below 0": (put((*SGD, "param_groups", 0, "lr"), -0.1), "lr is no such"),
    "a decay below 0": (put((*SGD, "param_groups", 0, "weight_decay"), -1.0), "weight_decay is no"),
    "complex moments": (
        put((*SGD, "state", 7, "momentum_buffer"), torch.ones(10, dtype=torch.complex64)),
        "is complex",
    ),
    "a history in words": (
        put(("rlkd", "history"), [{"epoch": 1, "train/loss": "low"}, {"epoch": 2}]),
        "history is none",
    ),
    "a rate in words": (put((*SGD, "param_groups", 0, "lr"), "fast"), "lr is no such"),
    "two optimisers": (
        lambda held: held["optimizer_states"].append(held["optimizer_states"][0]),
        "longer",
    ),
    "no schedule": (put("lr_schedulers", []), "shorter"),
    "a schedule elsewhere": (put(("lr_schedulers", 0, "last_epoch"), 7), "elsewhere"),
    "other milestones": (put(("lr_schedulers", 0, "milestones"), {1: 1}), "milestones differs"),
    "a method of the schedule": (put(("lr_schedulers", 0, "step"), 3), "schedule is another"),
    "no callbacks": (put("callbacks", {}), "Clock is missing"),
    "seconds below zero": (put(("callbacks", "Clock", "seconds"), -4.6), "clock is below zero"),
    "an epoch below zero": (put(("callbacks", "Clock", "epoch"), [1.0, -1.0]), "below zero"),
    "no random state": (put(("callbacks", "KeepLast", "ranks"), [{"cuda": None}]), "cpu"),
    "a short random state": (
        put(("callbacks", "KeepLast", "ranks"), [{"cpu": torch.ones(3).byte(), "cuda": None}]),
        "RNG state",
    ),
    "an agent's random state": (
        put((*EXTRA, "generator"), (0, torch.zeros(5056, dtype=torch.uint8))),
        "mt19937",
    ),
    "an agent's epoch": (put((*EXTRA, "epoch"), "three"), "another kind"),
    "an agent's updates": (put((*EXTRA, "updates"), -2), "no count"),
    "a window of unequal lengths": (put((*EXTRA, "window"), STEPS_3), "another shape"),
    "a window without actions": (
        put((*EXTRA, "window"), {"mask": torch.ones(3)}),
        "lacks something",
    ),
    "an open trajectory of NaN": (
        put((*EXTRA, "window", "performance_before"), torch.tensor(torch.nan)),
        "not finite",
    ),
    "a closed trajectory of nothing": (put((*EXTRA, "closed"), [{}]), "lacks something"),
    "PPO's moments of another shape": (
        put((*PPO, "state", 0, "exp_avg"), torch.ones(3)),
        "another shape",
    ),
    "squares below 0": (put((*PPO, "state", 1, "exp_avg_sq"), -torch.ones(64)), "below 0"),
    "PPO's moments of NaN": (
        put((*PPO, "state", 1, "exp_avg"), torch.full((64,), torch.nan)),
        "not finite",
    ),
    "a figure of many": (
        put(("state_dict", "meters._extra_state", "figures"), {"reward": torch.ones(3)}),
        "figure",
    ),
}


@pytest.mark.parametrize(("number", "told"), [(2, "format 2"), (None, "no format number")])
def test_a_checkpoint_of_another_format_is_named(
    begun: Begun, number: int | None, told: str, tmp_path: Path
) -> None:
    fault = begun.fault_after(put(("rlkd", "format"), number), tmp_path / "step-6.ckpt")
    assert fault == (
        f"cannot be read (it has {told}, this release of rlkd reads 1: use the release that wrote "
        "it, or begin again in another folder)"
    )


def test_a_checkpoint_of_the_run_is_one(begun: Begun) -> None:
    before = {name: each for name, each in begun.module.state_dict().items() if "student" in name}
    before = {name: each.clone() for name, each in before.items()}
    assert content_fault(begun.place, begun.trainer, begun.module) is None
    for name, tensor in before.items():
        assert torch.equal(begun.module.state_dict()[name], tensor)


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_this_runs_is_named(change: str, begun: Begun, tmp_path: Path) -> None:
    do, told = CHANGES[change]
    fault = begun.fault_after(do, tmp_path / "step-8.ckpt")
    assert fault is not None
    assert told in fault
    assert fault.startswith("is no checkpoint of this run (")
    assert "\n" not in fault
    assert len(fault) < 400


@pytest.mark.long
@pytest.mark.parametrize("make", [list[Any], lambda inner: dict(enumerate(inner))])
def test_lists_that_hold_one_another_many_times_are_not_walked_through(
    make: Callable[[list[Any]], Any], begun: Begun, tmp_path: Path
) -> None:
    nested: Any = []
    for _ in range(14):
        nested = make([nested] * 10)
    fault = begun.fault_after(put(("loops", "a"), nested), tmp_path / "step-8.ckpt")
    assert fault == "is no checkpoint of this run (it holds too much)"


def listed_anew(folder: RunFolder, place: Path) -> None:
    store = folder.checkpoints
    sha256 = hashlib.sha256(place.read_bytes()).hexdigest()
    step = int(place.stem.removeprefix("step-"))
    store._list([(each, sha256 if each == step else sum_) for each, sum_ in store._listed()])  # pyright: ignore[reportPrivateUsage]


def test_one_without_loops_is_set_aside_for_the_one_before(
    begun: Begun, capsys: pytest.CaptureFixture[str]
) -> None:
    store = begun.folder.checkpoints
    store.place(9).unlink()
    store._list([each for each in store._listed() if each[0] <= STEP])  # pyright: ignore[reportPrivateUsage]
    held = copy.deepcopy(begun.held)
    del held["loops"]
    torch.save(held, begun.place)
    listed_anew(begun.folder, begun.place)
    console = silent()
    result = running.run(begun.config, console=console)
    told = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert f"{begun.place} is no checkpoint of this run (it lacks loops), set aside as" in told
    assert "going on from step-7.ckpt" in told
    assert result.epochs == 3
    assert begun.folder.student.read_bytes() == begun.student


@pytest.mark.parametrize("seed", but_long(range(2), 0))
def test_random_changes_are_refused_or_go_on_cleanly(
    seed: int, begun: Begun, tmp_path: Path
) -> None:
    """Whatever is taken is loaded by all that a run restores, and is finite."""
    draw, done, place = random.Random(seed), list[str](), tmp_path / "step-8.ckpt"

    def change(held: dict[str, Any]) -> None:
        done.append(mutated(held, draw))

    for _ in range(8):
        if begun.fault_after(change, place) is None:
            begun.module.load_state_dict(torch.load(place, weights_only=True)["state_dict"])
            for each in begun.module.student.state_dict().values():
                assert each.isfinite().all(), done[-1]
