"""Images in one subfolder a class, decoded once into memory."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import CenterCrop, Compose, Resize
from torchvision.transforms.functional import pil_to_tensor

from rlkd.data.memory import ImageSet
from rlkd.data.splits import check_limit, choose_rows
from rlkd.errors import UserError


@dataclass(frozen=True, slots=True)
class _Listing:
    """Image files that are not read yet."""

    files: tuple[Path, ...]
    target: Int64[Tensor, " files"]

    def select(self, rows: Int64[Tensor, " rows"]) -> "_Listing":
        return _Listing(tuple(self.files[row] for row in rows.tolist()), self.target[rows])


def load_folder(
    root: str | Path,
    *,
    image_size: int,
    train: str = "train",
    test: str | None = None,
    test_fraction: float | None = None,
    limit: int | None = None,
    memory_limit_gib: float = 8.0,
) -> tuple[ImageSet, ImageSet]:
    """Read `root/train/<class>/` and `root/test/<class>/`, or split the former.

    Images become RGB; the shorter side is resized to `image_size` and the middle square is kept.
    Classes are numbered by their sorted names, as torchvision's image folder does.

    Args:
        root: the folder; `~` is the home folder.
        image_size: height and width in memory, in pixels.
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
    if image_size < 1:
        raise UserError(f"data.image_size={image_size}: give 1 or more pixels")
    root = Path(root).expanduser()
    train_folder = root / train
    test_folder = _test_folder(root, test, test_fraction)
    class_names = class_folders(train_folder)
    if test_folder is None:
        listing = _list_images(train_folder, class_names)
        train_files, test_files = _split(listing, test_fraction or 0.0)
    else:
        check_same_classes(train_folder, class_names, test_folder)
        train_files = _list_images(train_folder, class_names)
        test_files = _list_images(test_folder, class_names)
    check_limit(limit, len(train_files.files))
    if limit is not None:
        train_files = train_files.select(choose_rows(train_files.target, limit, seed=0))
    count = len(train_files.files) + len(test_files.files)
    needed = count * 3 * image_size**2 / 2**30
    if needed > memory_limit_gib:
        raise UserError(
            f"{count} images of {image_size} x {image_size} need {needed:.3g} GiB of memory, above "
            f"data.memory_limit_gib={memory_limit_gib:g}: raise it, or lower data.image_size or "
            "data.limit"
        )
    return (
        ImageSet(_decode(train_files.files, image_size), train_files.target, class_names),
        ImageSet(_decode(test_files.files, image_size), test_files.target, class_names),
    )


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
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )
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


def _list_images(folder: Path, class_names: tuple[str, ...]) -> _Listing:
    files: list[Path] = []
    targets: list[int] = []
    for index, name in enumerate(class_names):
        found = sorted(
            path for path in (folder / name).rglob("*") if path.suffix.lower() in IMG_EXTENSIONS
        )
        if not found:
            raise UserError(
                f"{folder / name} has no images ({' '.join(IMG_EXTENSIONS)}): add some, or remove "
                "the folder"
            )
        files += found
        targets += [index] * len(found)
    return _Listing(tuple(files), torch.tensor(targets))


def _split(listing: _Listing, test_fraction: float) -> tuple[_Listing, _Listing]:
    size = round(test_fraction * len(listing.files))
    if not 0 < size < len(listing.files):
        raise UserError(
            f"data.test_fraction={test_fraction} of {len(listing.files)} images leaves none to "
            "train or to test on: give a share above 0 and below 1"
        )
    held = choose_rows(listing.target, size, seed=0)
    kept = torch.ones(len(listing.files), dtype=torch.bool)
    kept[held] = False
    return listing.select(kept.nonzero().flatten()), listing.select(held)


def _decode(files: Sequence[Path], image_size: int) -> UInt8[Tensor, "n 3 s s"]:
    image = torch.empty(len(files), 3, image_size, image_size, dtype=torch.uint8)
    square = Compose([Resize(image_size), CenterCrop(image_size)])

    def decode_row(row: int) -> None:
        image[row] = pil_to_tensor(square(_open(files[row])))

    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for _ in pool.map(decode_row, range(len(files))):
            pass
    return image


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types
        raise UserError(
            f"{file} cannot be decoded ({' '.join(str(error).split())}): replace or remove it"
        ) from error
