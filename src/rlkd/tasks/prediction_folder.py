"""The images that are asked about, and the folder that the answers go to."""

import io
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from rlkd.atomic import remove_unfinished, whole
from rlkd.data.images import ImageReader, UndecodableError, image_bytes
from rlkd.data.sources.listing import ENDINGS, list_images, require_text
from rlkd.data.sources.unreadable import first_few
from rlkd.engine.lock import LOCK
from rlkd.errors import UserError
from rlkd.reporting.results.provenance import counted
from rlkd.text_files import read_object, write_object

RESULTS = "predictions.json"
PICTURES = "pictures"
_MAX_RESULTS = 4 * 2**30
"""Bytes of the results of some ten million images."""


def image_files(source: Path, output: Path) -> tuple[list[Path], list[str]]:
    """Return an image, or those of a folder and its subfolders; see `list_images`.

    The pictures in the output folder are left out.

    Returns:
        The images, and the names of the files that are none by their names.

    Raises:
        UserError: if there are none, they are where pictures would be written, or a name is no
            text.
    """
    here = _real(output)
    pictures = here / PICTURES
    if _real(source).is_relative_to(pictures):
        raise UserError(f"{source} is where pictures would be written: name another output folder")
    require_text(str(source))
    if source.is_file():
        return [source], []
    if not source.is_dir():
        what = "is neither file nor folder" if source.exists() else "does not exist"
        raise UserError(f"{source} {what}: name an image, or a folder of images")
    listed = list_images(source)
    files = [
        source / name for name in listed.images if not _real(source / name).is_relative_to(pictures)
    ]
    if not files:
        raise UserError(
            f"{source} has no images ({' '.join(ENDINGS)}): name an image, or a folder of images"
        )
    return files, [name for name in listed.others if not _real(source / name).is_relative_to(here)]


def _real(path: Path) -> Path:
    """Return where a path leads; `Path.resolve` raises at a link to itself."""
    return Path(os.path.realpath(path))


def left_out_words(
    files: Sequence[Path],
    root: Path,
    predictions: Sequence[Mapping[str, Any]],
    others: Sequence[str],
) -> str:
    """Say what was left out, as the end of a line; empty where nothing was.

    Args:
        files: the images that were asked about.
        root: the folder that the predictions name them from.
        predictions: what was said of those that could be decoded.
        others: the files that are no images by their names.
    """
    said = {each["file"] for each in predictions}
    lost = [name for each in files if (name := each.relative_to(root).as_posix()) not in said]
    words = ""
    if lost:
        named = first_few(lost)
        words = f", {counted(len(lost), 'file')} that cannot be decoded left out ({named})"
    if others:
        words += f", {counted(len(others), 'file')} without an image's ending left out"
    return words


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
    for folder in (output, *(output / PICTURES).glob("**/")):
        remove_unfinished(folder)
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: name another output folder")
    there = {each.name for each in output.iterdir()} if output.is_dir() else set[str]()
    if there - {LOCK} and not _is_prediction(marker, keys):
        raise UserError(
            f"{output} holds files that are no predictions: name a new or empty output folder"
        )
    write_results(output, [], complete=False)


def write_results(
    output: Path, predictions: Sequence[Mapping[str, Any]], *, complete: bool = True
) -> None:
    """Write `predictions.json`: what was said of each image, in the order of the paths.

    Args:
        output: the folder.
        predictions: what was said.
        complete: whether that is of all images; not where a prediction has only begun.

    Raises:
        UserError: if it cannot be written.
    """
    write_object(output / RESULTS, {"complete": complete, "predictions": predictions})


def _is_prediction(marker: Path, keys: Collection[str]) -> bool:
    try:
        found: object = read_object(marker, "", limit=_MAX_RESULTS).get("predictions")
    except UserError:
        return False
    return isinstance(found, list) and all(
        isinstance(each, dict) and set(each) == set(keys) for each in cast("list[object]", found)
    )


def batches(
    files: Sequence[Path], size: int, *, channels: int = 3, skip_unreadable: bool
) -> Iterator[list[tuple[Path, UInt8[Tensor, "channels _ _"]]]]:
    """Decode images, so many at once.

    Args:
        files: the images.
        size: of a batch, 1 or more.
        channels: 3 for RGB, 1 for grey.
        skip_unreadable: whether a file that cannot be decoded is left out.

    Raises:
        UserError: if a file cannot be decoded and is not to be skipped.
    """
    reader = ImageReader(channels)
    batch: list[tuple[Path, Tensor]] = []
    for file in files:
        try:
            batch.append((file, reader.read(partial(image_bytes, file), file)))
        except UndecodableError as error:
            if not skip_unreadable:
                raise UserError(f"{error}, or give skip_unreadable=true") from error
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def picture_path(output: Path, name: Path) -> Path:
    """Return where an image's picture goes, given its path from the source folder on."""
    kept = name.suffix.lower() in (".jpg", ".jpeg", ".png")
    return output / PICTURES / (name if kept else name.with_name(f"{name.name}.png"))


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format that its name says.

    Raises:
        UserError: if it cannot be written.
    """
    content = io.BytesIO()
    kind = Image.registered_extensions()[path.suffix.lower()]
    picture.save(content, kind, quality=92, subsampling=0)  # which keeps thin lines in their colour
    with whole(path) as unfinished:
        unfinished.write_bytes(content.getbuffer())
