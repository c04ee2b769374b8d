"""Weights to and from files; no pickled code of a file is ever run."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from rlkd.atomic import whole
from rlkd.errors import UserError
from rlkd.models.matching import COUNTER, find_weights, is_plain, named_tensors
from rlkd.models.trial import Shape, returned_by
from rlkd.models.weight_files import read_weights


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


@dataclass(frozen=True)
class Loaded:
    """The outcome of loading a file's weights."""

    place: str | None
    """Where in the file they were; None where most files have them."""
    new: Collection[str]
    """The entries of the network that kept what they had."""

    @property
    def note(self) -> str | None:
        """A note to the user; None where there is nothing to report."""
        said = [self.place] if self.place else []
        said += [f"{', '.join(self.new)} are new, the rest is the file's"] if self.new else []
        return "; ".join(said) or None


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    classifier: Callable[[], Collection[str]] | None = None,
    rows: Sequence[int] | None = None,
) -> Loaded:
    """Copy a file's weights into a model of the same architecture; a refusal changes nothing.

    Reads a plain state dict, one under a key such as `model` (RepDistiller, mdistiller),
    `state_dict` (Lightning), `net` or `model_ema`, and safetensors. Which, and without which prefix
    of a wrapper such as `module.`, is found by matching names and shapes; plain weights come before
    their running average. Entries beside those of the prefix are left out.

    Args:
        model: the network to fill; keeps its dtype and device.
        path: a .pth, .pt, .ckpt or .safetensors file.
        classifier: finds the entries that need not fit, see `classifier_entries`; is called where
            they are not those that differ in the number of classes alone. None if all are to fit.
        rows: the file's classes that the classifier is to take, in order; None to leave it new.

    Raises:
        UserError: if there is no such file; if it is not a checkpoint, is truncated or holds
            pickled code; if it is another architecture's, has another number of classes, holds
            several weights that fit, or weights that are no plain tensors of finite numbers, each
            with a place of its own, or variances below 0.
    """
    path = Path(path)
    model_state = named_tensors(model.state_dict())
    found = find_weights(path, read_weights(path), model_state)
    weights, new = found.weights, list[str]()
    _check_plain(path, {name: each for name, each in weights.items() if name in model_state})
    if classifier is not None:
        differing = list(_differences(model_state, weights))
        shown = _class_counts(differing, model_state, weights)
        head = {*(differing if shown else classifier())}
        if rows is None:
            new = [name for name in model_state if name in head]
            weights = {name: each for name, each in weights.items() if name not in head}
        else:
            weights = _selected(path, weights, head, rows)
    _check_match(path, type(model).__name__, model_state, weights, new)
    weights = {
        name: _fitting(path, name, each, model_state[name]) for name, each in weights.items()
    }
    model.load_state_dict(weights, strict=False)
    return Loaded(found.note, new)


def classifier_entries(model: nn.Module, num_classes: int, shape: Shape) -> list[str]:
    """Return the entries of a network's state that make its logits.

    They are those of the layer with an output for each class. Of several such layers it is the one
    whose output the network returns, when it is called on noise.

    Args:
        model: takes images of the shape, and returns logits.
        num_classes: of the logits.
        shape: of an image.

    Raises:
        UserError: if no layer has as many outputs, or several have and not one of them alone makes
            the logits.
    """
    state = model.state_dict()
    layers = {
        name.rpartition(".")[0]: None
        for name, tensor in state.items()
        if tensor.dim() >= 2 and len(tensor) == num_classes
    }
    makers = returned_by(model, layers, shape) if len(layers) > 1 else list(layers)
    if len(makers) != 1:
        have = f"several layers ({', '.join(layers)})" if layers else "no layer"
        raise UserError(
            f"this {type(model).__name__} has {have} of {num_classes} outputs, one a class: its "
            "classifier cannot be distinguished from the rest"
        )
    return [each for each in state if each.rpartition(".")[0] == makers[0]]


def read_metadata(path: str | Path) -> dict[str, float | int | str]:
    """Return the plain scalars that a file holds beside its weights, such as epoch and accuracy.

    Raises:
        UserError: as in `load_weights`, if the file cannot be read.
    """
    path = Path(path)
    payload = read_weights(path)
    if not any(map(named_tensors, payload.values())):
        return {}
    scalars = {
        key: value.item()
        if isinstance(value, Tensor) and is_plain(value) and value.numel() == 1
        else value
        for key, value in payload.items()
    }
    return {key: value for key, value in scalars.items() if isinstance(value, float | int | str)}


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a model's state dict as safetensors: the whole new file, or the old one untouched.

    Raises:
        UserError: if the file cannot be written.
    """
    content = as_safetensors(model)
    with whole(path) as unfinished:
        unfinished.write_bytes(content)


def as_safetensors(model: nn.Module) -> bytes:
    """Return a model's state dict as the content of a safetensors file.

    Tensors that share memory are there once for each of their names.
    """
    # safetensors refuses tensors that share memory or are not contiguous.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    # Its own save_file makes a file that only the user may read, under any umask.
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def _selected(
    path: Path, weights: dict[str, Tensor], head: Collection[str], rows: Sequence[int]
) -> dict[str, Tensor]:
    chosen = dict(weights)
    for name in head & weights.keys():
        if max(rows) >= len(weights[name]):
            raise UserError(
                f"{path}: checkpoint has {len(weights[name])} classes, so there is no class "
                f"{max(rows)} (the first is 0)"
            )
        chosen[name] = weights[name][list(rows)]
    return chosen


def _check_plain(path: Path, found: dict[str, Tensor]) -> None:
    for name, tensor in found.items():
        if not is_plain(tensor):
            raise UserError(
                f"{path}: {name} is no plain tensor with a number for each entry (it is sparse, "
                "quantised, without data, or the like); save the weights of a plain network"
            )


def _fitting(path: Path, name: str, found: Tensor, wanted: Tensor) -> Tensor:
    """Return an entry of the file as the network is to hold it."""
    try:
        if name.endswith(COUNTER) and found.is_floating_point():
            found = _counted(found.detach())
        tensor = found.detach().to(wanted.dtype) if _kind(found) == _kind(wanted) else None
    except (RuntimeError, NotImplementedError):  # two numbers to a byte, say
        tensor = None
    if tensor is None:
        raise UserError(
            f"{path}: {name} is of {found.dtype} in the checkpoint, of {wanted.dtype} in the "
            "model; save the weights of a plain network"
        )
    # A buffer that is infinite in a fresh network too, as a mask may be, is as it should be.
    if not tensor.isfinite().all() and wanted.isfinite().all():
        what = "NaN" if tensor.isnan().any() else "infinity"
        raise UserError(
            f"{path}: {name} holds {what}, as after a training that diverged; give a "
            "checkpoint from before"
        )
    if name.endswith("running_var") and bool((tensor < 0).any()):
        raise UserError(f"{path}: {name} holds variances below 0; give another checkpoint")
    return tensor


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def _counted(found: Tensor) -> Tensor:
    """Return a batch counter that was cast with the weights as a whole number, if it holds one."""
    # Half precision, whose largest number is 65504, makes a longer training's infinite.
    number = found.nan_to_num(nan=-1, posinf=torch.finfo(torch.float16).max)
    count = number.long()
    return count if bool(((count == number) & (count >= 0)).all()) else found


def _differences(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, str]:
    """Return how entries differ, by their names, the network's first."""
    differing: dict[str, str] = {}
    for name, tensor in wanted.items():
        if name not in found:
            if not name.endswith(COUNTER):
                differing[name] = "is in the model, not in the checkpoint"
        elif found[name].shape != tensor.shape:
            shapes = tuple(found[name].shape), tuple(tensor.shape)
            differing[name] = f"is {shapes[0]} in the checkpoint, {shapes[1]} in the model"
    for name in found:
        if name not in wanted:
            differing[name] = "is in the checkpoint, not in the model"
    return differing


def _check_match(
    path: Path,
    architecture: str,
    wanted: dict[str, Tensor],
    found: dict[str, Tensor],
    new: Collection[str],
) -> None:
    differing = {k: how for k, how in _differences(wanted, found).items() if k not in new}
    if not differing:
        return
    if counts := _class_counts(list(differing), wanted, found):
        raise ClassCountError(path, *counts)
    first, how = next(iter(differing.items()))
    raise UserError(
        f"{path}: another architecture than this {architecture}: {first} {how}; name the network "
        "that the checkpoint was trained with"
    )


def _class_counts(
    names: list[str], wanted: dict[str, Tensor], found: dict[str, Tensor]
) -> tuple[int, int] | None:
    """Return the class counts (found, wanted) if nothing differs but how many are distinguished."""
    if not names or not all(name in wanted and name in found for name in names):
        return None
    shapes = [(found[name].shape, wanted[name].shape) for name in names]
    if any(not f or not w or f[1:] != w[1:] for f, w in shapes):
        return None
    layers = {name.rpartition(".")[0] for name in names}
    (classes, wanted_classes), *others = sorted({(f[0], w[0]) for f, w in shapes})
    # Beside its logits a detector has four offsets for each class.
    if len(layers) == 2 and others == [(4 * classes, 4 * wanted_classes)]:
        return classes, wanted_classes
    # Auxiliary classifiers are classifiers too, norms of another width are none.
    matrices = {name.rpartition(".")[0] for name in names if wanted[name].dim() > 1}
    if not others and (len(layers) == 1 or layers == matrices):
        return classes, wanted_classes
    return None
