"""Whether a checkpoint, sound as a file, is one of this run: looked at whole before it is taken up.

Its checksum says that nothing has befallen the file since it was written. Here is held against the
run what it says: names, shapes and numbers of all that a run restores, and that its counters
describe one and the same step.
"""

import copy
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from packaging.version import Version
from torch import Tensor

from rlkd.agent.restoring import check_optimizer, require
from rlkd.engine.callbacks.checkpoint import KeepLast
from rlkd.engine.callbacks.early_stopping import StopEarly
from rlkd.engine.callbacks.progress import Clock
from rlkd.engine.module import StudentModule
from rlkd.errors import UserError, one_line
from rlkd.models.matching import is_plain
from rlkd.models.weight_files import read_weights
from rlkd.text_files import require_format

_DEPTH = 20
_PARTS_AT_MOST = 4_000_000
"""Values that a checkpoint may hold: one that holds a list many times, nested, is endless."""
_PARTS = {
    *("epoch", "global_step", "state_dict", "loops", "callbacks", "optimizer_states"),
    *("lr_schedulers", "rlkd", "pytorch-lightning_version"),
}


def content_fault(place: Path, trainer: L.Trainer, module: StudentModule) -> str | None:
    """Return what is wrong with a checkpoint; None where it is one of this run.

    The module is left as it was.

    Args:
        place: of the checkpoint.
        trainer: that is to go on from it, before it fits.
        module: that is to be trained.
    """
    before = copy.deepcopy(module.state_dict())
    try:
        held = read_weights(place)
        _check_size(held)
        require(held.keys() >= _PARTS, f"it lacks {', '.join(sorted(_PARTS - held.keys()))}")
        require_format(held["rlkd"].get("format"), "it")
        Version(held["pytorch-lightning_version"])  # Lightning brings older ones up to date by it
        _check_weights(held["state_dict"], module)
        _check_progress(held, trainer, module)
        _check_optimizers(held, module)
        _check_callbacks(held["callbacks"], trainer)
        scaling: Any = trainer.precision_plugin.state_dict()
        if scaling:
            _check_alike(scaling, held[type(trainer.precision_plugin).__qualname__], "scaling")
    except UserError as error:
        return f"cannot be read ({one_line(error)})"
    except Exception as error:
        # What is of another kind than it should be raises whatever that leads to.
        return f"is no checkpoint of this run ({one_line(error)[:300]})"
    finally:
        module.load_state_dict(before)
    return None


def _check_size(held: dict[str, Any]) -> None:
    """Require that whatever walks through it comes to an end."""
    waiting, left = list[Any]([held]), _PARTS_AT_MOST
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict | list | tuple):
            inner = cast("list[Any]", each.values() if isinstance(each, dict) else each)
            left -= len(inner)
            require(left >= 0, "it holds too much")
            waiting.extend(inner)


def _check_weights(held: Mapping[str, Any], module: StudentModule) -> None:
    own = module.state_dict()
    for name, tensor in own.items():
        require(name in held, f"{name} is missing")
        _check_alike(tensor, held[name], name)
        if isinstance(tensor, Tensor) and tensor.dtype == torch.int64 and tensor.numel():
            require((held[name] >= tensor.min().clamp_max(0)).all(), f"{name} is below 0")
        if name.endswith("running_var"):
            require((held[name] >= 0).all(), f"{name} is below 0")
    require(held["bad_step"] == -1, "its loss was not finite")
    if module.explorer is not None:
        partner = held["explorer.partner"]
        require((partner < len(partner)).all(), "explorer.partner names no instance")
    module.load_state_dict(held)


def _check_progress(held: Mapping[str, Any], trainer: L.Trainer, module: StudentModule) -> None:
    """Check that all counters say the same."""
    epoch, step, history = held["epoch"], held["global_step"], held["rlkd"]["history"]
    done = held["rlkd"]["batches_done"]
    for each in held["rlkd"]["meters"]:
        _check_alike(dict(module.meters.named_buffers()), each, "meters of a rank")
    for count in (epoch, step, done):
        require(type(count) is int and count >= 0, "a counter is no count")
    for number, row in enumerate(history):
        require(row["epoch"] == number + 1, "history lacks an epoch")
        for column, value in row.items():
            require(isinstance(column, str) and isinstance(value, int | float), "history is none")
    loops = held["loops"]["fit_loop"]
    _check_alike(cast(Any, trainer.fit_loop).state_dict(), loops, "loops")
    batches = loops["epoch_loop.batch_progress"]
    steps = loops["epoch_loop.manual_optimization.optim_step_progress"]
    current = batches["current"]["ready"]
    require(steps["total"]["completed"] == step, "loops and global_step differ")
    require(loops["epoch_progress"]["current"]["completed"] == epoch, "loops and epoch differ")
    require(done == (0 if batches["is_last_batch"] else current), "loops and batches_done differ")
    require(len(history) - epoch in (0, 1), "history and epoch differ")
    if trainer.max_steps == -1:
        whole = len(module.loader)
        ended = done == 0
        require(current == (whole if ended else done) and done < whole, "there are fewer batches")
        require(len(history) - epoch == ended, "history and batches_done differ")
        passed = epoch * whole + current
        require(step * module.accumulate == passed, "global_step and epoch differ")
        for count in _counts(loops):
            require(count <= passed, "loops count more than was trained")


def _check_optimizers(held: Mapping[str, Any], module: StudentModule) -> None:
    made = module.configure_optimizers()
    optimizers, schedulers = made if isinstance(made, tuple) else ([made], [])
    for own, state in zip(optimizers, held["optimizer_states"], strict=True):
        check_optimizer(own, state, begun=held["global_step"] > 0)
    for own, state in zip(schedulers, held["lr_schedulers"], strict=True):
        fresh = own.state_dict()
        require(state.keys() <= fresh.keys(), "the schedule is another")
        _check_alike({name: fresh[name] for name in state}, state, "the schedule")
        by_epoch = module.schedule_by == "epoch"
        passed = len(held["rlkd"]["history"]) if by_epoch else held["global_step"]
        require(state["last_epoch"] == passed, "the schedule is elsewhere")


def _check_callbacks(held: Mapping[str, Any], trainer: L.Trainer) -> None:
    """Check those that have a state; only the clock's can be asked for by one rank alone."""
    for each in cast("list[Any]", trainer.callbacks):  # pyright: ignore[reportAttributeAccessIssue]
        if not isinstance(each, Clock | KeepLast | StopEarly):
            continue
        require(each.state_key in held, f"{each.state_key} is missing")
        state = held[each.state_key]
        if isinstance(each, Clock):
            _check_alike(each.state_dict(), state, "the clock")
            seconds = [state["seconds"], state["data_seconds"], *state["epoch"]]
            require(min(seconds) >= 0, "the clock is below zero")
            continue
        if isinstance(each, StopEarly):
            _check_alike(each.state_dict(), state, "early stopping")
            EarlyStoppingReason(state["stopping_reason"])  # or a ValueError
            continue
        for rank in state["ranks"]:
            torch.Generator().set_state(rank["cpu"])
            cuda = rank["cuda"]
            require(cuda is None or (cuda.dtype == torch.uint8 and cuda.dim() == 1), "CUDA's")


def _check_alike(own: Any, held: Any, where: str) -> None:
    """Require what is held to be of the kind of one's own; what is empty there may be anything."""
    if isinstance(own, Tensor):
        require(isinstance(held, Tensor) and is_plain(held), f"{where} is no plain tensor")
        require(held.shape == own.shape and held.dtype == own.dtype, f"{where} has another shape")
        if own.isfinite().all():
            require(held.isfinite().all(), f"{where} is not finite")
    elif isinstance(own, Counter):
        require(held == own, f"{where} differs")
    elif isinstance(own, dict) and own:
        require(isinstance(held, dict), f"{where} is no dictionary")
        for key, value in cast("dict[str, Any]", own).items():
            require(key in held, f"{where} lacks {key}")
            _check_alike(value, held[key], f"{where}.{key}")
    elif isinstance(own, list | tuple) and own:
        require(isinstance(held, list | tuple), f"{where} is no list")
        for each, other in zip(cast("list[Any]", own), held, strict=True):
            _check_alike(each, other, where)
    elif own is None or isinstance(own, dict | list | tuple):
        _check_sane(held, where)
    elif isinstance(own, float):
        require(isinstance(held, int | float) and math.isfinite(held), f"{where} is no number")
    else:
        require(type(held) is type(own), f"{where} is of another kind")
        require(not isinstance(held, int) or 0 <= held < 2**64, f"{where} is no count")


def _check_sane(held: Any, where: str, depth: int = _DEPTH) -> None:
    """Require plain data: plain tensors, numbers, texts, and what holds them."""
    require(depth, f"{where} is nested too deeply")
    if isinstance(held, Tensor):
        require(is_plain(held), f"{where} is no plain tensor")
    elif isinstance(held, dict):
        for key, value in cast("dict[Any, Any]", held).items():
            _check_sane(value, f"{where}.{key}", depth - 1)
    elif isinstance(held, list | tuple):
        for value in cast("list[Any]", held):
            _check_sane(value, where, depth - 1)
    else:
        require(held is None or isinstance(held, str | int | float), f"{where} is no plain data")


def _counts(held: Mapping[str, Any]) -> Iterator[int]:
    for value in held.values():
        if isinstance(value, dict):
            yield from _counts(cast("dict[str, Any]", value))
        else:
            yield value
