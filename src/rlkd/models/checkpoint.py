"""Weights to and from files; no pickled code of a file is ever run."""

import contextlib
import os
import pickle
import re
import warnings
from collections.abc import Container
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rlkd.errors import UserError

_WEIGHT_KEYS = ("model", "state_dict")
_WRAPPERS = ("student.", "model.", "module.", "network.", "_orig_mod.")


class ClassCountError(UserError):
    """A checkpoint that fits but for its number of classes.

    Args:
        path: of the checkpoint.
        found: its number of classes.
        wanted: the data's.
    """

    def __init__(self, path: Path, found: int, wanted: int) -> None:
        super().__init__(
            f"{path}: checkpoint has {found} classes, the data {wanted}; give a checkpoint that "
            "was trained on this data"
        )
        self.found = found


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy a file's weights into a model of the same architecture; a refusal changes nothing.

    Reads `{"model": state_dict}` (RepDistiller, mdistiller), `{"state_dict": ...}` (Lightning), a
    plain state dict, each without the prefix of a wrapper such as `student.` or `module.`, and
    safetensors. Entries beside a wrapper's are left out.

    Args:
        model: the network to fill; keeps its dtype and device.
        path: a .pth, .pt, .ckpt or .safetensors file.

    Raises:
        UserError: if there is no such file; if it is not a checkpoint, is truncated or holds
            pickled code; if it is another architecture's, or has another number of classes.
    """
    path = Path(path)
    model_state = model.state_dict()
    found = _without_wrapper(_weights(_read(path), path), model_state)
    _check_match(path, type(model).__name__, model_state, found)
    model.load_state_dict(found, strict=False)


def read_metadata(path: str | Path) -> dict[str, float | int | str]:
    """Return the plain scalars that a file holds beside its weights, such as epoch and accuracy.

    Raises:
        UserError: as in `load_weights`, if the file cannot be read.
    """
    path = Path(path)
    payload = _read(path)
    if not any(_named_tensors(payload.get(key)) for key in _WEIGHT_KEYS):
        return {}
    scalars = {
        key: value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        for key, value in payload.items()
    }
    return {key: value for key, value in scalars.items() if isinstance(value, float | int | str)}


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a model's state dict as safetensors: the whole new file, or the old one untouched.

    Tensors that share memory are written once for each of their names.

    Raises:
        UserError: if the file cannot be written.
    """
    path = Path(path)
    # safetensors refuses tensors that share memory or are not contiguous.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    # Its own save_file makes a file that only the user may read, whatever the umask.
    content = safetensors.torch.save(tensors, metadata={"format": "pt"})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); give a file in a writable folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _read(path: Path) -> dict[str, Any]:
    """Return the dictionary that a file holds, on the CPU."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the path of a checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a checkpoint") from error
    if path.suffix == ".safetensors" or head[8:] == b"{":
        return _read_safetensors(path)
    if not head.startswith((b"PK", b"\x80")):
        raise UserError(_not_a_checkpoint(path))
    try:
        with warnings.catch_warnings(action="ignore"):
            payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged file raises whatever its bytes lead to: EOFError, KeyError, OSError, ...
        refused = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
        raise UserError(
            _holds_code(path, str(error)) if refused else _not_a_checkpoint(path)
        ) from error
    if not isinstance(payload, dict):
        raise UserError(f"{path}: holds a {type(payload).__name__}, not weights; save a state dict")
    return payload


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(_not_a_checkpoint(path)) from error


def _not_a_checkpoint(path: Path) -> str:
    return f"{path}: is not a checkpoint, or is truncated; save or download it again"


def _holds_code(path: Path, refusal: str) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", refusal)
    what = f" ({named[1]})" if named else ""
    return (
        f"{path}: holds pickled code{what}, which is not run; where you trust the file, load it "
        "with torch.load(FILE, weights_only=False) and torch.save the model.state_dict() alone"
    )


def _weights(payload: dict[str, Any], path: Path) -> dict[str, Tensor]:
    for holder in (*map(payload.get, _WEIGHT_KEYS), payload):
        weights = _named_tensors(holder)
        if weights:
            return weights
    held = ", ".join(map(str, payload)) or "nothing"
    raise UserError(
        f"{path}: holds no weights, but {held}; give a state dict, alone or under 'model' or "
        "'state_dict'"
    )


def _named_tensors(holder: object) -> dict[str, Tensor]:
    if not isinstance(holder, dict):
        return {}
    return {
        name: tensor
        for name, tensor in holder.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }


def _without_wrapper(weights: dict[str, Tensor], wanted: Container[str]) -> dict[str, Tensor]:
    while not any(name in wanted for name in weights):
        prefix = next((p for p in _WRAPPERS if any(name.startswith(p) for name in weights)), None)
        if prefix is None:
            break
        weights = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    return weights


def _check_match(
    path: Path, architecture: str, wanted: dict[str, Tensor], found: dict[str, Tensor]
) -> None:
    problems: dict[str, str] = {}
    for name, tensor in wanted.items():
        if name not in found:
            # Files older than torch 0.4.1 lack the batch counters.
            if not name.endswith("num_batches_tracked"):
                problems[name] = "is in the model, not in the checkpoint"
        elif found[name].shape != tensor.shape:
            shapes = tuple(found[name].shape), tuple(tensor.shape)
            problems[name] = f"is {shapes[0]} in the checkpoint, {shapes[1]} in the model"
    for name in found:
        if name not in wanted:
            problems[name] = "is in the checkpoint, not in the model"
    if not problems:
        return
    if counts := _class_counts(list(problems), wanted, found):
        raise ClassCountError(path, *counts)
    first, how = next(iter(problems.items()))
    raise UserError(
        f"{path}: another architecture than this {architecture}: {first} {how}; name the network "
        "that the checkpoint was trained with"
    )


def _class_counts(
    names: list[str], wanted: dict[str, Tensor], found: dict[str, Tensor]
) -> tuple[int, int] | None:
    """Return the class counts (found, wanted) if nothing differs but how many are told apart."""
    if not all(name in wanted and name in found for name in names):
        return None
    shapes = [(found[name].shape, wanted[name].shape) for name in names]
    if any(not f or not w or f[1:] != w[1:] for f, w in shapes):
        return None
    layers = len({name.rpartition(".")[0] for name in names})
    (classes, wanted_classes), *others = sorted({(f[0], w[0]) for f, w in shapes})
    # Beside its logits a detector has four offsets for each class.
    if (layers, others) in ((1, []), (2, [(4 * classes, 4 * wanted_classes)])):
        return classes, wanted_classes
    return None
