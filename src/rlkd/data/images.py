"""The one reader of image files: bytes in, upright pixels of 8 bits out."""

import importlib
import importlib.util
import threading
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from rlkd.errors import UserError, notice, one_line
from rlkd.regular_files import read_regular

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
"""What is decoded, whatever a file is called. Pillow knows more, of which PostScript is a program
that it would run."""
MAX_PIXELS = 178_956_970
"""Of an image; Pillow's own limit. It is looked up before anything is decoded."""
MAX_BYTES = 3 * MAX_PIXELS
"""Of an image file: as many as the largest image has uncompressed."""

_TOO_MANY = f"it has more than {MAX_PIXELS:,} pixels"
_MAX_WORK = 20 * MAX_PIXELS
"""Pixels times scans of a JPEG file, each of which goes over all pixels and may have no bytes."""
_SCAN, _SCAN_BYTES = b"\xff\xda\0", 10
"""How a scan begins, and the fewest bytes that it has."""
_JPEG = b"\xff\xd8\xff"
_SAME_COLOURS = ("YCbCr", "Gray", "RGB")
"""Those of which both readers make the same pixels; of CMYK they do not."""
_MODES = {1: "L", 3: "RGB"}
_ORIENTED = (b"Exif\0\0", b"tiff:Orientation")
"""A JPEG file that has neither is not turned."""
_TURNS: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}
"""Of each EXIF orientation: whether rows become columns, and which axes are then reversed."""

_PHOTOMETRIC = 262

_saying = threading.Lock()


class UndecodableError(UserError):
    """An image file of which nothing can be made; the message names it and says why.

    Args:
        message: all of it; the only argument that torch gives to one from another process.
        words: where the image is, and the reason alone.
    """

    def __init__(self, message: str, words: str = "") -> None:
        super().__init__(message)
        self.words = words


class ImageReader:
    """Reads the image files of one data set, all alike: upright, 8 bits, RGB or grey.

    EXIF's orientation is obeyed. 16 bits a channel are scaled to 8; where Pillow reads colours of
    16 bits it keeps the upper 8. Of an animation, or a file of several pages, the first image is
    read, which is said once in a warning. JPEG files go to simplejpeg where it is installed: it is
    faster and gives Pillow's pixels to the bit. What it refuses goes to Pillow, as do the other
    `FORMATS`; nothing else is decoded, and nothing larger than `MAX_BYTES` or `MAX_PIXELS`.

    Args:
        channels: 3 for RGB, 1 for grey.

    Raises:
        UserError: for any other number of channels.
    """

    def __init__(self, channels: int = 3) -> None:
        if type(channels) is not int or channels not in _MODES:
            raise UserError(f"data.channels={channels}: give 3 for colour, or 1 for grey")
        self.channels = channels
        # Shared with the processes that decode, so that all of them together say it once.
        self._said = torch.zeros(1, dtype=torch.bool).share_memory_()

    def read(
        self, content: Callable[[], bytes], place: object
    ) -> UInt8[Tensor, "channels height width"]:
        """Return the pixels of an image file, whatever its format and colours.

        Args:
            content: gives the file's bytes.
            place: where the image is, for messages.

        Raises:
            UndecodableError: if it cannot be read, is truncated, damaged, too large or no image,
                or has numbers whose range is not known.
        """
        try:
            encoded = content()
            pixels = self._fast(encoded)
            if pixels is None:
                pixels = self._any(encoded, place)
        except Exception as error:  # Pillow's decoders raise a dozen unrelated types
            reason = _reason(error)
            message = f"{place} cannot be decoded ({reason}): replace or remove it"
            raise UndecodableError(message, f"{place} ({reason})") from error
        return pixels

    def _fast(self, encoded: bytes) -> UInt8[Tensor, "channels height width"] | None:
        if _simplejpeg is None or not encoded.startswith(_JPEG):
            return None
        try:
            height, width, colours, _ = _simplejpeg.decode_jpeg_header(encoded)
            _check_size(encoded, width, height)
            if colours not in _SAME_COLOURS or (self.channels == 1 and colours != "Gray"):
                return None
            wanted = "RGB" if self.channels == 3 else "GRAY"
            pixels = _channels_first(_simplejpeg.decode_jpeg(encoded, colorspace=wanted))
        except ValueError:
            return None  # a damaged file, of which Pillow says what is wrong
        return turned(pixels, orientation(encoded))

    def _any(self, encoded: bytes, place: object) -> UInt8[Tensor, "channels height width"]:
        with _opened(encoded) as opened:
            opened.load()
            # Pillow turns TIFF files itself, and strikes the tag out when it has.
            pixels = turned(_eight_bits(opened, self.channels), _orientation(opened))
            several = False
            with suppress(Exception):  # a damaged second frame does no harm to the first
                several = getattr(opened, "is_animated", False) and opened.format != "MPO"
        if several and self._first_to_say_so():
            notice(f"{place} has several frames or pages: of such files the first is used")
        return pixels

    def _first_to_say_so(self) -> bool:
        with _saying:
            said = bool(self._said)
            self._said.fill_(True)
        return not said


def orientation(encoded: bytes) -> int:
    """Return the EXIF orientation of an image file, 1 to 8; 1 where it has none."""
    if encoded.startswith(_JPEG) and not any(each in encoded for each in _ORIENTED):
        return 1
    with _opened(encoded) as opened:
        return _orientation(opened)


def image_bytes(path: str | Path) -> bytes:
    """Return the content of an image file, a regular one of `MAX_BYTES` at most.

    Raises:
        OSError: if it is anything else, or cannot be read.
    """
    return read_regular(path, MAX_BYTES)


def turned(
    image: UInt8[Tensor, "channels height width"], orientation: int
) -> UInt8[Tensor, "channels _ _"]:
    """Turn or mirror stored pixels as an EXIF orientation asks."""
    transposed, reversed_axes = _TURNS.get(orientation, (False, ()))
    image = image.mT if transposed else image
    return image.flip(reversed_axes) if reversed_axes else image


def _opened(encoded: bytes) -> Image.Image:
    """Read the header of an image file; nothing is decoded yet."""
    opened = Image.open(BytesIO(encoded), formats=FORMATS)
    _check_size(encoded, *opened.size)
    return opened


def _check_size(encoded: bytes, width: int, height: int) -> None:
    if len(encoded) > MAX_BYTES:
        raise ValueError(f"it has {len(encoded):,} bytes, above {MAX_BYTES:,}")
    if width * height > MAX_PIXELS:
        raise ValueError(_TOO_MANY)
    scans = _MAX_WORK // max(width * height, 1)
    if len(encoded) > _SCAN_BYTES * scans and encoded.count(_SCAN) > scans:
        raise ValueError(f"it has more than {scans} scans of its {width:,} x {height:,} pixels")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose message names an object in memory
        return f"it is none of {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):
        return _TOO_MANY
    return one_line(getattr(error, "strerror", None) or error)


def _orientation(opened: Image.Image) -> int:
    try:
        found: Any = opened.getexif().get(ExifTags.Base.Orientation, 1)
        return found if found in _TURNS else 1
    except Exception:  # broken metadata does no harm to pixels
        return 1


def _eight_bits(opened: Image.Image, channels: int) -> UInt8[Tensor, "channels height width"]:
    mode = opened.mode
    # Pillow gives 16 bits of these formats, before its release 12, as 32.
    deep = mode.startswith("I;16") or (mode == "I" and opened.format in ("PNG", "PPM"))
    if deep:
        grey = np.asarray(opened).astype(np.uint32)
        if getattr(opened, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # of TIFF: white is zero
            grey = 65535 - grey
        grey = (grey + 128) // 257
        pixels = torch.from_numpy(grey.astype(np.uint8))
        return pixels.expand(channels, *pixels.shape)
    if mode[0] in "IF":
        raise ValueError(
            f"its numbers, Pillow's mode {mode}, have no known range: convert it to 8 or 16 bits"
        )
    return _channels_first(np.array(opened.convert(_MODES[channels])))


def _channels_first(pixels: NDArray[np.uint8]) -> UInt8[Tensor, "channels height width"]:
    """Put channels first, of pixels with or without an axis of channels."""
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def _fast_reader() -> Any:
    if importlib.util.find_spec("simplejpeg") is None:
        return None
    return importlib.import_module("simplejpeg")


_simplejpeg = _fast_reader()
