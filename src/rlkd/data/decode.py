"""From the content of an image file to pixels."""

import importlib
import importlib.util
from io import BytesIO
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

_JPEG = b"\xff\xd8\xff"
_SAME_COLOURS = ("YCbCr", "Gray", "RGB")
"""Those of which both readers make the same RGB; of CMYK they do not."""


class UndecodableError(Exception):
    """An image file that no decoder makes anything of; the message says why."""


def decode(content: bytes) -> UInt8[Tensor, "3 height width"]:
    """Return the pixels of an image file in RGB, whatever its format and colours.

    JPEG files go to simplejpeg where it is installed: it is faster and gives Pillow's pixels to the
    bit. What it refuses, and everything else, goes to Pillow.

    Raises:
        UndecodableError: if it is truncated, damaged or no image.
    """
    if _fast is not None and content.startswith(_JPEG):
        try:
            *_, colours, _ = _fast.decode_jpeg_header(content)
            if colours in _SAME_COLOURS:
                pixels = _fast.decode_jpeg(content, colorspace="RGB")
                return torch.from_numpy(pixels).permute(2, 0, 1)
        except ValueError:
            pass  # a damaged file, of which Pillow says what is wrong
    try:
        with Image.open(BytesIO(content)) as opened:
            pixels = np.array(opened.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types
        raise UndecodableError(" ".join(str(error).split())) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _fast_reader() -> Any:
    if importlib.util.find_spec("simplejpeg") is None:
        return None
    return importlib.import_module("simplejpeg")


_fast = _fast_reader()
