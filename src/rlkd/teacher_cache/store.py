"""The folder that a teacher's logits are kept in, and what they are of."""

import hashlib
import json
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from rlkd import distributed
from rlkd.atomic import is_unfinished, unwritable, whole
from rlkd.engine.lock import LOCK, locked
from rlkd.errors import UserError
from rlkd.teacher_cache.records import CHECKS, LOGITS, Records, sizes
from rlkd.text_files import read_object, write_object

IDENTITY, IMAGES = "teacher_cache.json", "images.bin"
DTYPES = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
"""What numbers are kept as, by the setting `teacher.cache_dtype`."""
_FILES = (LOGITS, CHECKS, IMAGES, IDENTITY)
"""The last is written first and removed last: what is in a folder that has it is the store's."""
_MADE, _SCORES = "made", "scores_"

Identity = Mapping[str, Any]
"""All that a logit depends on, by the name that a message calls it."""
Digests = NDArray[np.uint64]
"""Of images, sorted, each once."""


class Store:
    """Logits of one teacher on every view of every image of one data set.

    Args:
        folder: has been checked; see `opened` and `found`.
        identity: what the logits are of.
        digests: of the images.
        writable: whether rows may be added.

    Raises:
        UserError: if a file is missing or cut short.
    """

    def __init__(
        self, folder: Path, identity: Identity, digests: Digests, *, writable: bool
    ) -> None:
        self.folder, self.identity, self.digests = folder, dict(identity), digests
        self.views = int(identity["views"])
        try:
            self.records = Records(folder, **_shape(identity, digests), writable=writable)
        except (OSError, ValueError) as error:
            raise _broken(folder, error) from None

    @classmethod
    def opened(
        cls, folder: Path, identity: Identity, digests: Digests, console: Console
    ) -> "Store":
        """Open the store of a folder, which is made where there is none. All ranks call together.

        Args:
            folder: of the store, or of none yet.
            identity: what the logits are to be of, but for the images.
            digests: of the images that it is for, where it is made.
            console: where to say who is waited for.

        Raises:
            UserError: if the folder holds other logits, naming what differs, or files that are no
                store's, or is damaged; if there is no room for it, or it cannot be made.
        """
        with _readable(folder):
            made = distributed.on_rank_zero(lambda: _is_made(folder))
        if not made:
            with _readable(folder):
                _require_own(folder)
            with locked(folder, "wait", console):
                distributed.on_rank_zero(lambda: _create(folder, identity, digests))
        store = cls.found(folder)
        for name, wanted in identity.items():
            held = store.identity.get(name)
            if held != wanted:
                raise UserError(
                    f"teacher.cache={folder} is of another {name} ({_short(held)} there, "
                    f"{_short(wanted)} here): give another folder, or remove it with `rlkd cache "
                    f"remove {folder}`"
                )
        return store

    @classmethod
    def found(cls, folder: Path) -> "Store":
        """Open the store that is in a folder, whatever it is of.

        Raises:
            UserError: if there is none, or it is damaged.
        """
        path = folder / IDENTITY
        with _readable(folder):
            _require_store(folder)
        held = read_object(path, f"remove the store with `rlkd cache remove {folder}`")
        if not held.pop(_MADE, False):
            raise _broken(folder, ValueError("it was not finished when it was made"))
        dtype = held.get("cache_dtype")
        numbers: list[Any] = [held.get(each) for each in ("images", "classes", "views")]
        if str(dtype) not in DTYPES or any(type(each) is not int or each < 1 for each in numbers):
            raise _broken(folder, ValueError(f"{path} does not say what it holds"))
        images = folder / IMAGES
        try:
            if images.stat().st_size != 8 * numbers[0]:
                raise ValueError(
                    f"{images} has {images.stat().st_size:,} bytes, not {8 * numbers[0]:,}"
                )
            digests = np.fromfile(images, "<u8")
        except (OSError, ValueError) as error:
            raise _broken(folder, error) from None
        if images_sha256(digests) != held.get("images_sha256"):
            raise _broken(folder, ValueError(f"{images} is not what was written"))
        writable = all(os.access(folder / each, os.W_OK) for each in (LOGITS, CHECKS))
        return cls(folder, held, digests, writable=writable)

    @property
    def bytes_on_disk(self) -> int:
        """What the store takes on the disk; rows that are not there take nothing."""
        return sum((self.folder / each).stat().st_blocks * 512 for each in (LOGITS, CHECKS, IMAGES))

    @property
    def bytes_when_full(self) -> int:
        """What it takes when every row is there."""
        return _bytes(self.folder, self.identity, self.digests)

    def scores(self, images: str) -> Path:
        """Return where the teacher's figures on a set of images are kept.

        Args:
            images: which they are, and how the teacher sees them.
        """
        known = json.dumps([self.identity, images], sort_keys=True)
        return self.folder / f"{_SCORES}{hashlib.sha256(known.encode()).hexdigest()[:16]}.json"


def remove(folder: Path) -> None:
    """Remove a store, and its folder if nothing else is in it.

    Raises:
        UserError: if there is none, or it cannot be removed.
    """
    with _readable(folder):
        _require_store(folder)
    try:
        for each in (*folder.glob(f"{_SCORES}*.json"), *(folder / name for name in _FILES)):
            each.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise UserError(f"cannot remove {folder}: {error.strerror or error}") from None


def images_sha256(digests: Digests) -> str:
    """Return a SHA-256 of a set of images, of their digests."""
    return hashlib.sha256(digests.astype("<u8").tobytes()).hexdigest()


def _create(folder: Path, identity: Identity, digests: Digests) -> None:
    if _is_made(folder):  # by the process that had the folder
        return
    _require_own(folder)
    wanted, free = _bytes(folder, identity, digests), shutil.disk_usage(folder).free
    if wanted > free:
        raise UserError(
            f"teacher.cache={folder} needs {wanted / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB "
            "are free: give a folder with more room, or free some"
        )
    of_images = {"images": len(digests), "images_sha256": images_sha256(digests)}
    write_object(folder / IDENTITY, {_MADE: False})  # from here on the files are a store's
    try:
        for path, size in sizes(folder, **_shape(identity, digests)).items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            file = os.open(path, flags, 0o666)
            os.truncate(file, size)  # without blocks, which come with the rows
            os.close(file)
    except OSError as error:
        raise unwritable(folder, error) from error
    with whole(folder / IMAGES) as unfinished:
        digests.astype("<u8").tofile(unfinished)
    write_object(folder / IDENTITY, {**identity, **of_images, _MADE: True})


def _is_made(folder: Path) -> bool:
    """Return whether a store is there, and was finished."""
    path = folder / IDENTITY
    return path.is_file() and read_object(path, f"remove {path}").get(_MADE) is not False


def _require_store(folder: Path) -> None:
    if not (folder / IDENTITY).is_file():
        raise UserError(f"{folder} is no store of a teacher's logits: it has no {IDENTITY}")


@contextmanager
def _readable(folder: Path) -> Generator[None]:
    """Report as the user's what keeps a folder from being looked at."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"teacher.cache={folder} cannot be read ({error.strerror or error}): give a folder "
            "that you may read"
        ) from None


def _require_own(folder: Path) -> None:
    """Refuse a folder that somebody else's files are in."""
    if (folder / IDENTITY).is_file():
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(f"teacher.cache={folder} is no folder: give one that is new or empty")
    for each in folder.iterdir() if folder.is_dir() else ():
        if each.name != LOCK and not is_unfinished(each):
            if (folder / IDENTITY).is_file():  # another process has just made it
                return
            raise UserError(
                f"teacher.cache={folder} holds files that are no store's, such as {each.name}: "
                "give a folder that is new or empty"
            )


def _shape(identity: Identity, digests: Digests) -> dict[str, Any]:
    return {
        "rows": len(digests) * int(identity["views"]),
        "columns": int(identity["classes"]),
        "dtype": DTYPES[identity["cache_dtype"]],
    }


def _bytes(folder: Path, identity: Identity, digests: Digests) -> int:
    return sum(sizes(folder, **_shape(identity, digests)).values()) + 8 * len(digests)


def _broken(folder: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(
        f"teacher.cache={folder} is damaged ({reason}): remove it with `rlkd cache remove {folder}`"
    )


def _short(value: object) -> str:
    shown = str(value)
    return f"{shown[:12]}..." if len(shown) == 64 else shown
