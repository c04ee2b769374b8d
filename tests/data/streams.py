"""The same 24 images of 3 classes in every layout that is streamed.

Red and green tell which of them an image is, whatever is cut out of it; blue, what was cut out.
"""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from rlkd.data import Dataset, StreamLoader, StreamSet
from rlkd.data.datasets import imagenet, parquet, webdataset

COUNT = 24
CLASSES = ("a", "b", "c")
SMALL: dict[str, Any] = {"image_size": 8, "resize": 9, "workers": 0}


def colour(number: int) -> tuple[int, int]:
    """The red and green of an image."""
    return 10 * number, 255 - 10 * number


def encoded(number: int) -> bytes:
    """A PNG, each of another size, whose blue grows to the right and downwards."""
    content = io.BytesIO()
    y, x = np.mgrid[: 40 - number, : 12 + number]
    red, green = (np.full_like(x, level) for level in colour(number))
    pixels = np.stack([red, green, 4 * x + 3 * y], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(content, format="PNG")
    return content.getvalue()


def write_folder(root: Path) -> Path:
    for split in ("train", "val"):
        for number in range(COUNT):
            file = root / split / CLASSES[number % 3] / f"{number:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encoded(number))
    return root


def write_parquet(
    root: Path,
    *,
    described: bool = True,
    classes: Sequence[str] = CLASSES,
    replace: dict[int, bytes] = {},  # noqa: B006
) -> Path:
    """Three shards of 8 rows in groups of 3, and a test shard of all."""
    root.mkdir(parents=True, exist_ok=True)
    splits = {f"train-{k:05}-of-00003": range(8 * k, 8 * k + 8) for k in range(3)}
    splits["test-00000-of-00001"] = range(COUNT)
    for name, numbers in splits.items():
        images = [
            {"bytes": replace.get(number, encoded(number)), "path": None} for number in numbers
        ]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table(
            {"image": pa.array(images, type=kind), "label": [number % 3 for number in numbers]}
        )
        if described:
            features = {"label": {"names": list(classes), "_type": "ClassLabel"}}
            told = json.dumps({"info": {"features": features}})
            table = table.replace_schema_metadata({"huggingface": told})
        pq.write_table(table, root / f"{name}.parquet", row_group_size=3)
    return root


def write_tar(root: Path, *, as_json: bool = False) -> Path:
    """Four shards of 6 samples, and one to test on; labels as numbers, or by name in json."""
    root.mkdir(parents=True, exist_ok=True)
    splits = {f"train-{k}": range(6 * k, 6 * k + 6) for k in range(4)} | {"val-0": range(COUNT)}
    for name, numbers in splits.items():
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            for number in numbers:
                label = json.dumps({"label": CLASSES[number % 3]}) if as_json else str(number % 3)
                suffix = "json" if as_json else "cls"
                add(tar, f"set/{number:04}.{suffix}", label.encode())
                add(tar, f"set/{number:04}.png", encoded(number))
    return root


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def in_folder(root: Path, **options: Any) -> Dataset:
    return imagenet(root=write_folder(root), **(SMALL | options))


def in_parquet(root: Path, **options: Any) -> Dataset:
    return parquet(root=write_parquet(root), groups_at_once=2, **(SMALL | options))


def in_tar(root: Path, **options: Any) -> Dataset:
    names = list(CLASSES)
    given = {"class_names": names, "groups_at_once": 2}
    return webdataset(root=write_tar(root), **(given | SMALL | options))


LAYOUTS: dict[str, Callable[..., Dataset]] = {
    "folder": in_folder,
    "parquet": in_parquet,
    "webdataset": in_tar,
}


def loader_of(images: Any, **options: Any) -> StreamLoader:
    """A loader whose pixels are in [0, 1] and not normalised."""
    assert isinstance(images, StreamSet)
    defaults: dict[str, Any] = {"batch_size": 6, "shuffle": True, "seed": 3}
    return StreamLoader(images, mean=(0.0,) * 3, std=(1.0,) * 3, **(defaults | options))


def numbers(image: Tensor) -> list[int]:
    """Which of the 24 each image of a batch is, by its red and green, which no crop changes."""
    levels = (255 * image[:, :2].mean(dim=(2, 3))).round().int()
    found = levels[:, 0] // 10
    expected = torch.tensor([colour(number) for number in found.tolist()])
    assert torch.equal(levels, expected.int())
    return found.tolist()
