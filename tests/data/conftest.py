import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from rlkd.data import ImageSet

ParquetWriter = Callable[..., Path]


@pytest.fixture
def images() -> ImageSet:
    """23 random images of 3 classes, 3 x 6 x 6."""
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        image=torch.randint(0, 256, (23, 3, 6, 6), dtype=torch.uint8, generator=generator),
        target=torch.arange(23) % 3,
        class_names=("a", "b", "c"),
    )


def random_pixels(count: int, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def as_png(pixels: Tensor) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(content, format="PNG")
    return content.getvalue()


@pytest.fixture
def write_png() -> Callable[[Path, Tensor], None]:
    def write(path: Path, pixels: Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_png(pixels))

    return write


@pytest.fixture
def write_parquet() -> ParquetWriter:
    def write(
        path: Path,
        pixels: Tensor,
        labels: list[int | None],
        *,
        label: str = "label",
        replace: dict[int, bytes] | None = None,
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = [(replace or {}).get(row, as_png(image)) for row, image in enumerate(pixels)]
        column = [{"bytes": encoded, "path": None} for encoded in content]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"img": pa.array(column, type=kind), label: labels})
        pq.write_table(table, path)
        return path

    return write


@pytest.fixture
def pixels_of() -> Callable[..., Tensor]:
    return random_pixels
