"""Kind `checkpoints`: weight files and a run's own checkpoints, spoilt, or not what they say."""

import hashlib
import shutil
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from rlkd import models
from rlkd.models.checkpoint import load_weights, read_metadata

from . import command_line, images, tensors
from .command import check_result, command
from .values import spoilt_bytes
from .verdict import Case, FailedError, Place
from .weight_files import pickled_code, spoilt_zip, weights, written

RESUMED = [
    *(
        each
        for each in command_line.SMALL
        if not each.startswith(("trainer.epochs", "temperature"))
    ),
    *("temperature=rlkd", "temperature.update_interval=1", "trainer.epochs=2", "data.limit=128"),
]
"""A run that a budget of steps stopped in its second epoch."""


def prepare(shared: Path) -> None:
    """Train a run; leave another half done; write weights in the forms that are read."""
    command_line.prepare(shared)
    words = [f"teacher.checkpoint={shared}/teacher/student.safetensors", "output=half"]
    command(["distill", *RESUMED, *words])
    for each in ("result.json", "report.html", "student.safetensors", "metrics.csv", "policy.json"):
        (shared / "half" / each).unlink()
    network = models.create("convnet_tiny", num_classes=10, in_channels=1)
    state = safetensors.torch.load_file(shared / "teacher" / "student.safetensors")
    network.load_state_dict(state)
    forms: dict[str, Any] = {
        "plain": state,
        "model": {"model": state, "epoch": 3, "best_acc": 0.5},
        "lightning": {"state_dict": {f"student.{k}": v for k, v in state.items()}, "epoch": 3},
        "ema": {"model": state, "model_ema": {k: v * 0.9 for k, v in state.items()}},
        "module": {f"module.{k}": v for k, v in state.items()},
    }
    (shared / "weights").mkdir()
    for name, held in forms.items():
        torch.save(held, shared / "weights" / f"{name}.pt")
    torch.save(state, shared / "weights" / "legacy.pth", _use_new_zipfile_serialization=False)
    shutil.copy(shared / "teacher" / "student.safetensors", shared / "weights")


def fresh() -> torch.nn.Module:
    """Return the network that the weights are of."""
    torch.manual_seed(0)
    return models.create("convnet_tiny", num_classes=10, in_channels=1)


def make(draw: Random, place: Place) -> Case:
    """Draw a file of weights and who reads it, or a run to go on with."""
    if draw.random() < 0.3:
        return _resumed(draw, place)
    words, path = weights(draw, place)
    by = draw.choice(("load", "load", "load", "metadata", "evaluate", "distill", "export", "head"))
    if by == "load":
        return Case(f"load: {words}", lambda: _loaded(path))
    if by == "metadata":
        return Case(f"metadata: {words}", lambda: str(read_metadata(path))[:300])
    small = [*command_line.SMALL, command_line.SHORT]
    given = {
        "evaluate": [
            "evaluate",
            "data=digits",
            "teacher=convnet_tiny",
            f"teacher.checkpoint={path}",
        ],
        "distill": ["distill", *small, f"teacher.checkpoint={path}", "output=o"],
        "head": ["train", *small, f"student.checkpoint={path}", "student.head=new", "output=o"],
        "export": [
            "export",
            "data=digits",
            "student=convnet_tiny",
            f"student.checkpoint={path}",
            "format=safetensors",
            "to=x.safetensors",
        ],
    }[by]

    def act() -> str:
        printed = command(given)
        return check_result(Path("o")) if by in ("distill", "head") else printed

    return Case(f"{by}: {words}", act)


def _loaded(path: Path) -> str:
    network = fresh()
    before = {name: each.clone() for name, each in network.state_dict().items()}
    try:
        loaded = load_weights(network, path)
    except BaseException:
        after = network.state_dict()
        if not all(torch.equal(before[name], after[name]) for name in before):
            raise FailedError(
                "nonsense",
                "the model is half overwritten",
                "load_weights: refused, and changed the model",
            ) from None
        raise
    after = network.state_dict()
    if tensors.not_finite(after):
        raise FailedError("nonsense", "weights that are not finite", "load_weights: not finite")
    if any(
        each.dtype != before[name].dtype or each.is_meta or each.layout != torch.strided
        for name, each in after.items()
    ):
        raise FailedError(
            "nonsense", "weights of another kind", "load_weights: another dtype or layout"
        )
    network.eval()
    with torch.no_grad():
        logits = network(torch.zeros(2, 1, 8, 8))
    if logits.isnan().any():
        raise FailedError("nonsense", f"{logits}", "load_weights: logits are NaN")
    return f"{loaded.note}, {logits[0, :2].tolist()}"


def _resumed(draw: Random, place: Place) -> Case:
    """Spoil the newest checkpoint of a run that stopped, its checksum right again or not."""
    folder = place.out / "half"
    shutil.copytree(place.shared / "half", folder)
    newest = max((folder / "checkpoints").glob("step-*.ckpt"), key=lambda each: int(each.stem[5:]))
    kind = draw.choice(("bytes", "content", "content", "content", "zip", "code", "special", "sums"))
    words, content = kind, newest.read_bytes()
    if kind == "bytes":
        content = spoilt_bytes(draw, content)
    elif kind == "zip":
        words, content = spoilt_zip(draw, content)
    elif kind == "code":
        content = written(draw, pickled_code(draw, place, {}), kind)
    elif kind == "content":
        held = torch.load(newest, weights_only=True)
        words = f"content: {_spoil_state(draw, held)}"
        content = written(draw, held, kind)
    elif kind == "special":
        newest.unlink()
        words = draw.choice(images.SPECIAL)
        images.special(newest, words)
    if kind != "special":
        newest.write_bytes(content)
    sums = folder / "checkpoints" / "SHA256SUMS"
    if kind == "sums":
        sums.write_bytes(spoilt_bytes(draw, sums.read_bytes()))
    elif kind != "special" and draw.random() < 0.9:
        lines = [each for each in sums.read_text().splitlines() if not each.endswith(newest.name)]
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {newest.name}")
        sums.write_text("".join(f"{each}\n" for each in lines))
    given = [
        "distill",
        *RESUMED,
        f"teacher.checkpoint={place.shared}/teacher/student.safetensors",
        "output=half",
    ]

    def act() -> str:
        printed = command(given)
        said = check_result(Path("half"))
        if not said.endswith("after 2 epochs"):
            raise FailedError("nonsense", said, "a resumed run of another number of epochs")
        return f"{printed[:200]} {said}"

    return Case(f"resume: {words}", act)


def _spoil_state(draw: Random, held: Any) -> str:
    """Change something somewhere in a checkpoint; say what."""
    path: list[str] = []
    while True:
        keys = list(held) if isinstance(held, dict) else list(range(len(held)))
        if not keys:
            return f"{path} left"
        key = draw.choice(keys)
        path.append(str(key))
        below = held[key]
        if isinstance(below, dict | list) and below and draw.random() < 0.8:
            held = below
            continue
        what = draw.choice(("remove", "none", "number", "text", "nan", "odd", "empty", "negative"))
        if what == "remove" or isinstance(held, tuple):
            if not isinstance(held, tuple):
                del held[key]
            return f"{path} {what}"
        odd: dict[str, Any] = {
            "none": None,
            "number": 2**62,
            "text": "x",
            "nan": float("nan"),
            "empty": {},
            "negative": -5,
        }
        if what == "odd" and isinstance(below, Tensor):
            odd["odd"] = draw.choice(
                (
                    below * float("nan"),
                    below[..., None],
                    below.double(),
                    torch.zeros(0),
                    below.to_sparse() if below.dim() else below,
                )
            )
        held[key] = odd.get(what, [below])
        return f"{path} {what}"
