"""The images that are asked about, and the folder that the answers go to."""

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import cast

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from rlkd.errors import UserError
from rlkd.reporting.files import write_text

RESULTS = "predictions.json"
PICTURES = "pictures"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""Of the files that are taken for images in a folder, in lower or upper case."""


def image_files(source: Path, output: Path) -> list[Path]:
    """Return an image, or those of a folder and its subfolders in order of their paths.

    Left out are hidden files, and the pictures in the output folder.

    Raises:
        UserError: if there are none, or they are where pictures would be written.
    """
    pictures = output.resolve() / PICTURES
    if source.resolve().is_relative_to(pictures):
        raise UserError(f"{source} is where pictures would be written: name another output folder")
    if source.is_file():
        return [source]
    if not source.exists():
        raise UserError(f"{source} does not exist: name an image, or a folder of images")
    files = [
        path
        for path in source.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
        and path.is_file()
        and not path.resolve().is_relative_to(pictures)
    ]
    if not files:
        raise UserError(
            f"{source} has no images ({' '.join(SUFFIXES)}): name an image, or a folder of images"
        )
    return sorted(files, key=lambda path: path.relative_to(source).as_posix())


def claim(output: Path, *, keys: Collection[str]) -> None:
    """Make sure that nothing but an earlier prediction is in the folder that is written to.

    Its results are emptied, so that an interrupted prediction is known for one.

    Args:
        output: the folder; made where it is missing.
        keys: of each result; by these an earlier prediction is known.

    Raises:
        UserError: if something else is there, or it cannot be written.
    """
    marker = output / RESULTS
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: name another output folder")
    if output.is_dir() and any(output.iterdir()) and not _is_prediction(marker, keys):
        raise UserError(
            f"{output} holds files that are no predictions: name a new or empty output folder"
        )
    write_text(marker, "[]")


def _is_prediction(marker: Path, keys: Collection[str]) -> bool:
    try:
        found: object = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, list) and all(
        isinstance(each, dict) and set(each) == set(keys) for each in cast("list[object]", found)
    )


def batches(
    files: Sequence[Path], size: int, *, skip_unreadable: bool
) -> Iterator[list[tuple[Path, UInt8[Tensor, "3 _ _"]]]]:
    """Decode images, so many at once.

    Raises:
        UserError: if a file cannot be decoded and is not to be skipped.
    """
    batch: list[tuple[Path, Tensor]] = []
    for file in files:
        try:
            batch.append((file, _read(file)))
        except UserError:
            if not skip_unreadable:
                raise
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(file: Path) -> UInt8[Tensor, "3 height width"]:
    try:
        with Image.open(file) as opened:
            if opened.mode[0] in "IF":  # which a conversion would clip
                raise ValueError("it has more than 8 bits a channel")
            return pil_to_tensor(opened.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types
        raise UserError(
            f"{file} cannot be decoded ({' '.join(str(error).split())}): replace or remove it, or "
            "give skip_unreadable=true"
        ) from error


def picture_path(output: Path, name: Path) -> Path:
    """Return where an image's picture goes, given its path from the source folder on."""
    kept = name.suffix.lower() in (".jpg", ".jpeg", ".png")
    return output / PICTURES / (name if kept else name.with_name(f"{name.name}.png"))


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format that its name says.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=92, subsampling=0)  # which keeps thin lines in their colour
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write {path}: {reason}; choose a folder you may write to"
        ) from None
