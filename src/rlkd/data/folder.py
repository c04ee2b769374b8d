"""Images in one subfolder a class, decoded once into memory."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from rlkd import arguments
from rlkd.data.images import ImageReader
from rlkd.data.loaders.memory import ImageSet
from rlkd.data.sources.folder import FolderSource, list_folder
from rlkd.data.sources.listing import is_hidden, require_text
from rlkd.data.splits import check_limit, choose_rows
from rlkd.data.transforms.resized_crop import fitted, pixel_size
from rlkd.errors import UserError

_Rows = Int64[Tensor, " _"]


def load_folder(
    root: str | Path,
    *,
    image_size: int | Sequence[int],
    reader: ImageReader | None = None,
    train: str = "train",
    test: str | None = None,
    test_fraction: float | None = None,
    limit: int | None = None,
    memory_limit_gib: float = 8.0,
) -> tuple[ImageSet, ImageSet]:
    """Read `root/train/<class>/` and `root/test/<class>/`, or split the former.

    Images are resized until they just cover `image_size`, and the middle is kept. Classes are
    numbered by their sorted names, as torchvision's image folder does.

    Args:
        root: the folder; `~` is the home folder.
        image_size: height and width in memory, in pixels; one number for both, or both.
        reader: reads the files, as RGB or grey; None for RGB.
        train: subfolder of the training images.
        test: subfolder of the test images; None for `test`, or else `val`.
        test_fraction: share of the training images to test on, above 0 and below 1, where there is
            no test folder; the choice is stratified and always the same.
        limit: how many of the training images to read, stratified, always the same; None for all.
        memory_limit_gib: the most memory that the images may take, in GiB.

    Raises:
        UserError: if a folder is missing or empty, the classes differ, an image is corrupt, an
            option is out of its range, or the images need more memory.
    """
    size, reader = pixel_size(image_size, "data.image_size"), reader or ImageReader()
    arguments.number("data.test_fraction", test_fraction, above=0, below=1, optional=True)
    arguments.number("data.memory_limit_gib", memory_limit_gib, above=0)
    arguments.count("data.limit", limit, optional=True)
    root = Path(root).expanduser()
    train_folder = root / train
    test_folder = _test_folder(root, test, test_fraction)
    class_names = class_folders(train_folder)
    if test_folder is not None:
        check_same_classes(train_folder, class_names, test_folder)
    train_source, train_target = list_folder(train_folder, class_names)
    if test_folder is None:
        test_source, test_target = train_source, train_target
        train_rows, test_rows = _split(train_target, test_fraction or 0.0)
    else:
        test_source, test_target = list_folder(test_folder, class_names)
        train_rows, test_rows = torch.arange(len(train_target)), torch.arange(len(test_target))
    check_limit(limit, len(train_rows))
    if limit is not None:
        train_rows = train_rows[choose_rows(train_target[train_rows], limit, seed=0)]
    count = len(train_rows) + len(test_rows)
    needed = count * reader.channels * size[0] * size[1] / 2**30
    if needed > memory_limit_gib:
        raise UserError(
            f"{count} images of {size[0]} x {size[1]} need {needed:.3g} GiB of memory, above "
            f"data.memory_limit_gib={memory_limit_gib:g}: raise it, or lower data.image_size or "
            "data.limit"
        )
    parts = ((train_source, train_target, train_rows), (test_source, test_target, test_rows))
    train_set, test_set = (
        ImageSet(_decode(source, rows, size, reader), target[rows], class_names)
        for source, target, rows in parts
    )
    return train_set, test_set


def _test_folder(root: Path, test: str | None, test_fraction: float | None) -> Path | None:
    names = ("test", "val") if test is None else (test,)
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None and test_fraction is None:
        raise UserError(
            f"{root} has no folder {' or '.join(names)}: add it, or give data.test_fraction=0.1 to "
            "test on a tenth of the training images"
        )
    if found is not None and test_fraction is not None:
        raise UserError(
            f"data.test_fraction={test_fraction} is given but {found} exists: leave one out"
        )
    return found


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the subfolders of a split, sorted: its classes. Hidden ones are left out.

    Raises:
        UserError: if the folder is missing, or has none.
    """
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}: put the images into {folder}/<class>/, or mend data.root"
        )
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name)
    )
    for name in names:
        require_text(name)
    if not names:
        raise UserError(f"{folder} has no class folders: put the images into {folder}/<class>/")
    return tuple(names)


def check_same_classes(train_folder: Path, class_names: tuple[str, ...], test_folder: Path) -> None:
    """Refuse two splits of which one has a class that the other lacks.

    Raises:
        UserError: naming the first such class.
    """
    odd = sorted(set(class_names) ^ set(class_folders(test_folder)))
    if odd:
        has, lacks = train_folder, test_folder
        if odd[0] not in class_names:
            has, lacks = lacks, has
        raise UserError(
            f"class {odd[0]} is in {has} but not in {lacks}: both need the same classes"
        )


def _split(target: _Rows, test_fraction: float) -> tuple[_Rows, _Rows]:
    size = round(test_fraction * len(target))
    if not 0 < size < len(target):
        raise UserError(
            f"data.test_fraction={test_fraction} of {len(target)} images leaves none to "
            "train or to test on: give a share above 0 and below 1"
        )
    held = choose_rows(target, size, seed=0)
    kept = torch.ones(len(target), dtype=torch.bool)
    kept[held] = False
    return kept.nonzero().flatten(), held


def _decode(
    source: FolderSource, rows: _Rows, size: tuple[int, int], reader: ImageReader
) -> UInt8[Tensor, "n c h w"]:
    image = torch.empty(len(rows), reader.channels, *size, dtype=torch.uint8)

    def decode_row(at: int, row: int) -> None:
        pixels = reader.read(lambda: source.encoded(row), source.place(row))
        image[at] = fitted(pixels, size)

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode_row, range(len(rows)), rows.tolist()):
            pass
    return image
