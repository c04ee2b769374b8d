"""Files whose weights have the right names and are no weights: refused, and nothing is changed."""

import json
import os
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlkd.errors import UserError
from rlkd.models import create, load_weights, matching, read_metadata
from rlkd.models.matching import find_weights

LAST = "fc.weight"
"""Comes so late that all else would have been overwritten."""


def _quantised(weights: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(weights, 0.1, 0, torch.qint8)


def _quietly(make: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def made(weights: Tensor) -> Tensor:
        with warnings.catch_warnings(action="ignore"):
            return make(weights)

    return made


NO_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda weights: weights.to_sparse(),
    "compressed": _quietly(lambda weights: weights.to_sparse_csr()),
    "without data": lambda weights: weights.to("meta"),
    "quantised": _quantised,
    "nested": _quietly(lambda weights: torch.nested.nested_tensor(list(weights))),
    "one number for all": lambda weights: torch.zeros(1).expand(weights.shape),
    "overlapping": lambda weights: torch.zeros(99).as_strided(weights.shape, (1, 1)),
    "endless": lambda weights: torch.zeros(1).expand(2**30, 2**30),
}
NO_NUMBERS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "complex": (lambda weights: weights.to(torch.complex64), "is of torch.complex64"),
    "whole": (lambda weights: weights.int(), "is of torch.int32"),
    "truths": (lambda weights: weights > 0, "is of torch.bool"),
    "beyond float32": (lambda weights: weights.double() + 1e300, "holds infinity"),
    "a NaN": (lambda weights: weights.where(weights != weights.max(), torch.nan), "holds NaN"),
}


def _state() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        name: each.clone() for name, each in create("resnet8", num_classes=10).state_dict().items()
    }


def _refusal(model: nn.Module, path: Path, **options: Any) -> str:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings(action="error"), pytest.raises(UserError) as caught:
        load_weights(model, path, **options)
    assert all(torch.equal(before[name], held) for name, held in model.state_dict().items())
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("rows", [None, list(range(9, -1, -1))])
@pytest.mark.parametrize("kind", NO_PLAIN)
def test_tensors_that_are_not_plain_are_refused(
    kind: str, rows: list[int] | None, resnet8: nn.Module, tmp_path: Path
) -> None:
    state = _state()
    state[LAST] = NO_PLAIN[kind](state[LAST])
    torch.save({"model": state}, tmp_path / "file.pth")
    chosen: dict[str, Any] = {}
    if rows is not None:
        chosen = {"classifier": lambda: [LAST, "fc.bias"], "rows": rows}
    told = _refusal(resnet8, tmp_path / "file.pth", **chosen)
    assert f"{LAST} is no plain tensor" in told


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_numbers_that_a_network_cannot_hold_are_refused(
    kind: str, resnet8: nn.Module, tmp_path: Path
) -> None:
    state = _state()
    make, told = NO_NUMBERS[kind]
    state[LAST] = make(state[LAST])
    torch.save({"model": state}, tmp_path / "file.pth")
    assert f"{LAST} {told}" in _refusal(resnet8, tmp_path / "file.pth")


def test_a_variance_below_0_is_refused(resnet8: nn.Module, tmp_path: Path) -> None:
    state = _state()
    state["bn1.running_var"][0] = -1
    torch.save(state, tmp_path / "file.pth")
    assert "bn1.running_var holds variances below 0" in _refusal(resnet8, tmp_path / "file.pth")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_precision_are_taken(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {
        name: each.to(dtype) if each.is_floating_point() else each
        for name, each in _state().items()
    }
    torch.save(state, tmp_path / "file.pth")
    model = create("resnet8", num_classes=10)
    load_weights(model, tmp_path / "file.pth")
    assert all(
        torch.equal(state[name].to(each.dtype), each) for name, each in model.state_dict().items()
    )


@pytest.mark.parametrize("hidden", ["sparse", "without data", "quantised", "nested", "endless"])
def test_what_is_beside_the_weights_is_left_alone(hidden: str, tmp_path: Path) -> None:
    state = _state()
    state["accuracy"] = NO_PLAIN[hidden](torch.ones(10, 64))
    torch.save({"model": _state(), "other": {"x": state["accuracy"]}}, tmp_path / "file.pth")
    load_weights(create("resnet8", num_classes=10), tmp_path / "file.pth")
    torch.save({"model": _state(), "accuracy": state["accuracy"]}, tmp_path / "file.pth")
    assert read_metadata(tmp_path / "file.pth") == {}


def test_a_dictionary_that_holds_itself_is_searched_once(
    resnet8: nn.Module, tmp_path: Path
) -> None:
    state: dict[str, Any] = dict(_state())
    state |= {f"again{number}": state for number in range(1000)}
    torch.save(state, tmp_path / "file.pth")
    load_weights(resnet8, tmp_path / "file.pth")
    assert torch.equal(resnet8.state_dict()[LAST], state[LAST])


def test_a_name_of_a_million_parts_is_no_name(resnet8: nn.Module, tmp_path: Path) -> None:
    torch.save(_state() | {"a." * 10**6: torch.ones(1)}, tmp_path / "file.pth")
    load_weights(resnet8, tmp_path / "file.pth")


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(
    resnet8: nn.Module, tmp_path: Path
) -> None:
    torch.save({"model": _state(), "x": torch.zeros(2**22)}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "file.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for each in plain.infolist():
            packed.writestr(each.filename, plain.read(each))
    assert "would unpack to 17" in _refusal(resnet8, tmp_path / "file.pth")


def test_a_pipe_is_not_waited_for(resnet8: nn.Module, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "file.pth")
    assert "not a regular file" in _refusal(resnet8, tmp_path / "file.pth")


HEADERS: dict[str, bytes] = {
    "a larger shape": b'{"a": {"dtype": "F32", "shape": [400], "data_offsets": [0, 16]}}',
    "beyond the end": b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1600]}}',
    "an unknown type": b'{"a": {"dtype": "X32", "shape": [4], "data_offsets": [0, 16]}}',
    "no type of torch": b'{"a": {"dtype": "F6_E2M3", "shape": [64], "data_offsets": [0, 48]}}',
    "nested": b'{"a": ' * 10_000,
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_lies_is_no_checkpoint(kind: str, resnet8: nn.Module, tmp_path: Path) -> None:
    header, path = HEADERS[kind], tmp_path / "file.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(48 if b"F6" in header else 16))
    assert "is not a checkpoint" in _refusal(resnet8, path)


def test_numbers_of_half_a_byte_are_refused(resnet8: nn.Module, tmp_path: Path) -> None:
    header = {
        name: {"dtype": "F4", "shape": [*each.shape[:-1], 2 * each.shape[-1]]}
        for name, each in _state().items()
        if each.dim() > 0
    }
    place = 0
    for entry in header.values():
        size = torch.Size(entry["shape"]).numel() // 2
        entry["data_offsets"], place = [place, place + size], place + size
    told = json.dumps(header).encode()
    path = tmp_path / "file.safetensors"
    path.write_bytes(struct.pack("<Q", len(told)) + told + bytes(place))
    assert "is of torch.float4" in _refusal(resnet8, path)


@pytest.mark.parametrize("count", [0.5, torch.nan, -1.0, -torch.inf, 1e30])
def test_counters_that_count_nothing_are_refused(
    count: float, resnet8: nn.Module, tmp_path: Path
) -> None:
    state = _state()
    (name, *_) = (each for each in state if each.endswith("num_batches_tracked"))
    state[name] = torch.tensor(count)
    torch.save(state, tmp_path / "file.pth")
    assert f"{name} is of torch.float32" in _refusal(resnet8, tmp_path / "file.pth")


def test_whole_numbers_are_no_truths(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    network.register_buffer("mask", torch.tensor([True, False]))
    state = network.state_dict() | {"mask": torch.tensor([2, 0])}
    torch.save(state, tmp_path / "file.pth")
    told = "mask is of torch.int64 in the checkpoint, of torch.bool in the model"
    assert told in _refusal(network, tmp_path / "file.pth")


class Asked(dict[str, Tensor]):
    """Counts how often it is asked for a name."""

    times = 0

    def get(self, *given: Any) -> Any:
        self.times += 1
        return super().get(*given)


def test_names_of_many_parts_are_compared_as_deep_as_a_network_is(tmp_path: Path) -> None:
    wanted = Asked(_state())  # of four dots at most
    payload = {"a." * 490 + f"{n}.weight": torch.zeros(1) for n in range(100)}
    find_weights(tmp_path, payload, wanted)
    assert wanted.times == 500


def test_places_without_end_are_not_all_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[Any] = []
    monkeypatch.setattr(matching, "_left_over", lambda *given: compared.append(given) or set())
    payload = {f"p{n}.fc.weight": torch.zeros(10, 64) for n in range(1000)}
    find_weights(tmp_path, payload, _state())
    assert len(compared) == 16
