"""Parquet files that are none, never end, or unpack to more than memory holds."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.streams import CLASSES, SMALL, encoded, loader_of, write_parquet

from rlkd.data import cifar
from rlkd.data.cifar import load_cifar
from rlkd.data.datasets import parquet
from rlkd.data.sources import parquet as shards
from rlkd.errors import UserError

SHARD = "train-00001-of-00003.parquet"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


NO_FILES: dict[str, Callable[[Path], None]] = {"a FIFO": fifo, "a device": endless}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_regular_file_is_no_shard(tmp_path: Path, kind: str) -> None:
    file = write_parquet(tmp_path) / SHARD
    file.unlink()
    NO_FILES[kind](file)
    with pytest.raises(UserError, match=rf"{SHARD} cannot be read .* \(it is {kind}, not a reg"):
        parquet(root=tmp_path, **SMALL)


def test_a_split_without_rows_has_no_images(tmp_path: Path) -> None:
    write_parquet(tmp_path, described=False)
    kind = pa.struct([("bytes", pa.binary())])
    table = pa.table({"image": pa.array([], type=kind), "label": pa.array([], type=pa.int64())})
    pq.write_table(table, tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"what data\.test names has no images"):
        parquet(root=tmp_path, class_names=list(CLASSES), **SMALL)


def repeated(file: Path, content: bytes, count: int) -> None:
    """One image in many rows, which is written once."""
    image = pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int32), pa.array([content]))
    table = pa.table({"image": image, "label": pa.array(np.zeros(count, dtype=np.int64))})
    pq.write_table(table, file, store_schema=False)


def test_rows_that_take_no_room_in_the_file_take_none_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        repeated(tmp_path / f"{split}.parquet", encoded(1), 1000)
    options: dict[str, Any] = {"root": tmp_path, "class_names": list(CLASSES), **SMALL}
    assert len(parquet(**options).train) == 1000
    monkeypatch.setattr(shards, "_MAX_ROWS", 999)
    with pytest.raises(UserError, match=r"train\.parquet cannot be read .* more than 999 rows or"):
        parquet(**options)


def test_images_that_take_no_room_in_the_file_take_none_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_MAX_BYTES", 2**23)
    for split in ("train", "test"):
        repeated(tmp_path / f"{split}.parquet", bytes(10**6), 10_000)
        assert (tmp_path / f"{split}.parquet").stat().st_size < 10**5
    peak = pa.default_memory_pool().max_memory() or 0
    images = parquet(root=tmp_path, class_names=list(CLASSES), **SMALL).train
    with pytest.raises(UserError, match=r"cannot be decoded \(it unpacks to more than 10,"):
        list(loader_of(images, batch_size=1))
    assert (pa.default_memory_pool().max_memory() or 0) < peak + 2**26


def test_a_row_group_too_large_to_unpack_is_no_part_of_a_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path)
    monkeypatch.setattr(shards, "_MAX_BYTES", 100)
    told = (
        r"train-00000-of-00003\.parquet: row group 0 unpacks to [1-9][0-9]{2,3} bytes, above 100: "
        "write the file again with a smaller row_group_size$"
    )
    with pytest.raises(UserError, match=told):
        parquet(root=tmp_path, unreadable="skip", **SMALL)


def test_columns_that_are_not_read_may_have_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in write_parquet(tmp_path).iterdir():
        table = pq.read_table(file)
        notes = pa.array([f"{row:09}" * 500 for row in range(len(table))])
        pq.write_table(table.append_column("image_notes", notes), file)
    monkeypatch.setattr(shards, "_MAX_BYTES", 20_000)
    assert len(parquet(root=tmp_path, **SMALL).train) == 24


def test_cifar_is_read_up_to_a_size_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = pa.struct([("bytes", pa.binary())])
    rows = pa.array([{"bytes": encoded(1)}] * 20, type=kind)
    for split in ("train", "test"):
        pq.write_table(pa.table({"img": rows, "label": [1] * 20}), tmp_path / f"{split}.parquet")
    monkeypatch.setattr(cifar, "_MAX_IMAGES", 19)
    with pytest.raises(UserError, match=r"has 20 images of train, above 19: choose the data set"):
        load_cifar(tmp_path, num_classes=10)
    monkeypatch.setattr(shards, "_MAX_ROWS", 19)
    with pytest.raises(UserError, match=r"train\.parquet cannot be read .* more than 19 rows"):
        load_cifar(tmp_path, num_classes=10)
    (tmp_path / "train.parquet").unlink()
    fifo(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet cannot be read .*it is a FIFO"):
        load_cifar(tmp_path, num_classes=10)
    numbers = pa.array([{"bytes": 10**12}] * 20, type=pa.struct([("bytes", pa.int64())]))
    for split in ("train", "test"):
        (tmp_path / f"{split}.parquet").unlink()
        pq.write_table(pa.table({"img": numbers, "label": [1] * 20}), tmp_path / f"{split}.parquet")
    monkeypatch.undo()
    with pytest.raises(
        UserError, match=r"train\.parquet: column img is int64, not bytes of images"
    ):
        load_cifar(tmp_path, num_classes=10)


@pytest.mark.parametrize(
    "told",
    [
        "[" * 200_000,
        json.dumps({"info": {"features": {"label": {"names": 5}}}}),
        json.dumps({"info": {"features": {"label": {"names": "abc"}}}}),
        json.dumps({"info": {"features": {"label": {"names": {"x": "a"}}}}}),
        json.dumps({"info": {"features": {"label": {"names": ["\ud800", "b", "c"]}}}}),
        json.dumps({"info": {"features": [1]}}),
        json.dumps([1]),
    ],
)
def test_names_that_are_none_are_asked_for(tmp_path: Path, told: str) -> None:
    write_parquet(tmp_path)
    for file in tmp_path.iterdir():
        table = pq.read_table(file).replace_schema_metadata({"huggingface": told})
        pq.write_table(table, file)
    with pytest.raises(UserError, match=r"does not name its classes: give data\.class_names"):
        parquet(root=tmp_path, **SMALL)


@pytest.mark.parametrize("at", ["data", "footer", "end"])
def test_damage_is_told_in_a_line(tmp_path: Path, at: str) -> None:
    file = write_parquet(tmp_path) / SHARD
    content = bytearray(file.read_bytes())
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    place = {"data": 4, "footer": footer, "end": len(content) - 6}[at]
    content[place : place + 40] = b"\xff" * min(40, len(content) - place)
    file.write_bytes(content)
    with pytest.raises(UserError, match=rf"{SHARD}(, row [0-9])? cannot be") as error:
        list(loader_of(parquet(root=tmp_path, **SMALL).train))
    assert "\n" not in str(error.value)
