from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from rlkd.errors import UserError
from rlkd.models import create, load_weights, read_metadata, save_weights


class Tied(nn.Module):
    """Two names for one tensor, and one that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.conv = nn.Conv2d(4, 2, 3).to(memory_format=torch.channels_last)


def _fresh(num_classes: int = 10) -> nn.Module:
    return create("resnet8", num_classes=num_classes)


def _assert_equal(model: nn.Module, expected: nn.Module | dict[str, Tensor]) -> None:
    wanted = expected.state_dict() if isinstance(expected, nn.Module) else expected
    found = model.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"model": "resnet8", "state_dict": state},
        lambda state: {"state_dict": {f"student.{k}": v for k, v in state.items()}},
        lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": {f"model._orig_mod.{k}": v for k, v in state.items()}},
        lambda state: {
            "state_dict": {
                "agent.fc.weight": torch.zeros(1),
                **{f"student.{k}": v for k, v in state.items()},
            }
        },
    ],
    ids=["plain", "repdistiller", "named", "student", "parallel", "compiled", "distiller"],
)
def test_the_forms_in_use_all_load(
    resnet8: nn.Module, tmp_path: Path, wrap: Callable[[Any], Any], zipped: bool
) -> None:
    path = tmp_path / "file.pth"
    torch.save(wrap(resnet8.state_dict()), path, _use_new_zipfile_serialization=zipped)
    model = _fresh()
    load_weights(model, path)
    _assert_equal(model, resnet8)


def test_safetensors_written_by_others_load(resnet8: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    safetensors.torch.save_file(resnet8.state_dict(), path)
    model = _fresh()
    load_weights(model, str(path))
    _assert_equal(model, resnet8)


def test_missing_batch_counters_are_tolerated(resnet8: nn.Module, tmp_path: Path) -> None:
    state = resnet8.state_dict()
    old = {name: tensor for name, tensor in state.items() if "num_batches" not in name}
    assert len(old) < len(state)
    torch.save({"model": old}, tmp_path / "old.pth")
    model = _fresh()
    load_weights(model, tmp_path / "old.pth")
    _assert_equal(model, resnet8)


def test_loading_keeps_the_models_precision(resnet8: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet8.state_dict(), tmp_path / "file.pth")
    model = _fresh().double()
    load_weights(model, tmp_path / "file.pth")
    assert all(each.dtype == torch.float64 for each in model.parameters())


def test_the_shared_teacher_loads_in_its_architecture(teacher_file: Path) -> None:
    model = create("resnet56", num_classes=100)
    load_weights(model, teacher_file)
    published = torch.load(teacher_file, weights_only=True)["model"]
    assert torch.equal(model.state_dict()["fc.weight"], published["fc.weight"])
    assert read_metadata(teacher_file) == {"epoch": 20, "accuracy": pytest.approx(0.6808)}


def test_metadata_are_the_plain_scalars_beside_the_weights(
    resnet8: nn.Module, tmp_path: Path
) -> None:
    beside = {"epoch": 3, "accuracy": torch.tensor(0.5), "name": "a", "lrs": [0.1], "o": None}
    torch.save({"model": resnet8.state_dict(), **beside}, tmp_path / "file.pth")
    assert read_metadata(tmp_path / "file.pth") == {"epoch": 3, "accuracy": 0.5, "name": "a"}


def test_weights_without_anything_beside_have_no_metadata(
    resnet8: nn.Module, tmp_path: Path
) -> None:
    torch.save(resnet8.state_dict(), tmp_path / "file.pth")
    save_weights(resnet8, tmp_path / "file.safetensors")
    assert read_metadata(tmp_path / "file.pth") == {}
    assert read_metadata(tmp_path / "file.safetensors") == {}


@pytest.mark.parametrize("name", ["student.safetensors", "student.pth"])
def test_saved_weights_come_back_bit_by_bit(resnet8: nn.Module, tmp_path: Path, name: str) -> None:
    resnet8.train()(torch.rand(4, 3, 8, 8))  # fills the running statistics
    save_weights(resnet8, tmp_path / name)
    model = _fresh()
    load_weights(model, tmp_path / name)
    _assert_equal(model, resnet8)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_shared_and_strided_tensors_are_saved_under_every_name(tmp_path: Path) -> None:
    network, model = Tied(), Tied()
    assert not network.conv.weight.is_contiguous()
    save_weights(network, tmp_path / "file.safetensors")
    stored = safetensors.torch.load_file(tmp_path / "file.safetensors")
    assert torch.equal(stored["first.weight"], stored["second.weight"])
    load_weights(model, tmp_path / "file.safetensors")
    _assert_equal(model, network)


def test_saved_weights_may_be_read_by_whom_the_umask_lets(
    resnet8: nn.Module, tmp_path: Path
) -> None:
    save_weights(resnet8, tmp_path / "student.safetensors")
    (tmp_path / "other").write_bytes(b"")
    mode = (tmp_path / "other").stat().st_mode
    assert (tmp_path / "student.safetensors").stat().st_mode == mode


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_save_that_fails_midway_leaves_the_old_file(
    resnet8: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "student.safetensors"
    save_weights(resnet8, path)
    old = path.read_bytes()

    def fail_midway(file: Path, content: bytes) -> None:
        with file.open("wb") as opened:
            opened.write(content[: len(content) // 2])
        raise failure

    monkeypatch.setattr(Path, "write_bytes", fail_midway)
    with pytest.raises(UserError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        save_weights(_fresh(), path)
    if isinstance(failure, OSError):
        assert "No space left on device; free some space" in str(caught.value)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_told(resnet8: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_weights(resnet8, tmp_path / "file" / "student.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_counters_that_were_cast_with_the_weights_are_taken(
    dtype: torch.dtype, resnet8: nn.Module, tmp_path: Path
) -> None:
    state = {name: each.to(dtype) for name, each in resnet8.state_dict().items()}
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    state[counters[0]] = torch.tensor(64, dtype=dtype)
    state[counters[1]] = torch.tensor(93_696).to(dtype)  # infinite in half precision
    torch.save(state, tmp_path / "half.pth")
    load_weights(resnet8, tmp_path / "half.pth")
    loaded = resnet8.state_dict()
    assert [loaded[name].dtype for name in counters] == [torch.int64] * len(counters)
    assert loaded[counters[0]] == 64
    most = torch.finfo(torch.float16).max
    assert loaded[counters[1]] == min(most if dtype == torch.float16 else 93_696, 93_696)
    assert all(torch.equal(loaded[k].to(dtype), v) for k, v in state.items() if v.isfinite().all())
