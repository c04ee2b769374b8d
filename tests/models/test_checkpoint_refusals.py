import argparse
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlkd.errors import UserError
from rlkd.models import create, load_weights, read_metadata, save_weights


class RunsCode:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


class RunsShell(RunsCode):
    """The same by a shell command."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.marker}",)


def _refusal(model: nn.Module, path: Path) -> str:
    """Return the message, of one line, that names the file; the model keeps its weights."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(model, path)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_the_shared_teacher_is_refused_by_other_networks(teacher_file: Path) -> None:
    message = _refusal(create("resnet20", num_classes=100), teacher_file)
    # resnet20 has three blocks a stage, so the first that it lacks is the fourth.
    assert "layer1.3.conv1.weight is in the checkpoint, not in the model" in message
    message = _refusal(create("resnet56", num_classes=10), teacher_file)
    assert "checkpoint has 100 classes, the data 10" in message


def test_a_missing_file_is_named(resnet8: nn.Module, tmp_path: Path) -> None:
    assert "no such file" in _refusal(resnet8, tmp_path / "absent.pth")


def test_a_folder_is_refused(resnet8: nn.Module, tmp_path: Path) -> None:
    assert "cannot be read (it is a folder, not a regular file)" in _refusal(resnet8, tmp_path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"model: resnet20\n", b"cat,dog\n1,2\n", b"<html>404</html>", b"PK\x03\x04"]
)
def test_other_files_are_called_no_checkpoint(
    resnet8: nn.Module, tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    assert "is not a checkpoint, or is truncated" in _refusal(resnet8, path)


@pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_called_so(
    resnet8: nn.Module, tmp_path: Path, form: str, kept: float
) -> None:
    path = tmp_path / ("file.safetensors" if form == "safetensors" else "file.pth")
    if form == "safetensors":
        save_weights(resnet8, path)
    else:
        torch.save(resnet8.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert "is not a checkpoint, or is truncated" in _refusal(resnet8, path)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ([1, 2], "holds a list, not weights"),
        ({"optimizer": {"lr": 0.1}, "epoch": 3}, "holds no weights, but optimizer, epoch;"),
        ({}, "holds no weights, but nothing;"),
    ],
)
def test_a_file_without_weights_is_refused(
    resnet8: nn.Module, tmp_path: Path, payload: object, expected: str
) -> None:
    torch.save(payload, tmp_path / "file.pth")
    assert expected in _refusal(resnet8, tmp_path / "file.pth")


@pytest.mark.parametrize("attack", [RunsCode, RunsShell])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle2", "pickle4"])
def test_pickled_code_is_refused_and_never_run(
    resnet8: nn.Module, tmp_path: Path, attack: type[RunsCode], form: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / "file.pth"
    payload = {"model": resnet8.state_dict(), "epoch": attack(marker)}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps({"epoch": attack(marker)}, protocol=int(form[-1])))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form == "zip")

    message = _refusal(resnet8, path)
    with pytest.raises(UserError, match="pickled code"):
        read_metadata(path)
    assert not marker.exists()
    assert "holds pickled code" in message
    assert "model.state_dict()" in message

    if form == "zip":  # the attack is real: a trusting load runs it
        torch.load(path, weights_only=False)
        assert marker.exists()


def test_the_class_that_a_file_would_run_is_named(resnet8: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"model": resnet8.state_dict(), "opt": argparse.Namespace(lr=0.1)}, path)
    assert "holds pickled code (argparse.Namespace)" in _refusal(resnet8, path)
    torch.save(resnet8, path)
    assert "holds pickled code (rlkd.models.cifar.resnet.ResNet)" in _refusal(resnet8, path)


def test_a_torchscript_archive_counts_as_code(resnet8: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("version", "data.pkl", "constants.pkl"):
            archive.writestr(f"file/{name}", "1")
    assert "holds pickled code" in _refusal(resnet8, path)


def test_a_refusal_is_one_line_without_warnings_beside_it(
    resnet8: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(pickle.dumps({"epoch": 3}, protocol=4))
    with warnings.catch_warnings(record=True, action="always") as caught:
        _refusal(resnet8, path)
    assert not caught


def test_another_class_count_is_told_apart_from_another_architecture(
    resnet8: nn.Module, tmp_path: Path
) -> None:
    torch.save({"model": resnet8.state_dict()}, tmp_path / "file.pth")
    message = _refusal(create("resnet8", num_classes=7), tmp_path / "file.pth")
    assert "checkpoint has 10 classes, the data 7" in message
    assert "architecture" not in message


def _without(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__delitem__(name)


def _with(name: str, *shape: int) -> Callable[[dict[str, Tensor]], None]:
    return lambda state: state.__setitem__(name, torch.zeros(shape))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([_without("bn1.bias")], "bn1.bias is in the model, not in the checkpoint"),
        ([_with("se.weight", 3)], "se.weight is in the checkpoint, not in the model"),
        (
            [_with("fc.weight", 10, 128)],
            "fc.weight is (10, 128) in the checkpoint, (10, 64) in the model",
        ),
        ([_with("conv1.weight", 16, 1, 3, 3)], "conv1.weight is (16, 1, 3, 3)"),
        # The model's order decides, not the kind of the difference.
        ([_with("a", 1), _without("fc.bias"), _with("bn1.weight", 3)], "bn1.weight is (3,)"),
        ([_with("a", 1), _without("bn1.weight"), _with("fc.bias", 3)], "bn1.weight is in the"),
        # A new class count beside another difference is another architecture.
        ([_with("fc.weight", 5, 64), _with("fc.bias", 5), _with("bn1.bias", 3)], "bn1.bias is"),
        ([_with("fc.weight", 5, 64), _without("fc.bias")], "fc.weight is (5, 64)"),
        ([_with("bn1.bias", 5), _with("layer1.0.bn1.bias", 5)], "bn1.bias is (5,)"),
        ([_with("fc.weight", 5, 64), _with("fc.bias", 6)], "fc.weight is (5, 64)"),
    ],
)
def test_another_architecture_is_told_by_its_first_parameter(
    resnet8: nn.Module,
    tmp_path: Path,
    changes: list[Callable[[dict[str, Tensor]], None]],
    expected: str,
) -> None:
    state = dict(resnet8.state_dict())
    for change in changes:
        change(state)
    torch.save({"model": state}, tmp_path / "file.pth")
    message = _refusal(resnet8, tmp_path / "file.pth")
    assert f"another architecture than this ResNet: {expected}" in message
