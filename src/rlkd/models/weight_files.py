"""Reading files of weights without running pickled code."""

import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open

from rlkd.errors import UserError
from rlkd.regular_files import open_regular


def read_weights(path: Path) -> dict[str, Any]:
    """Return the dictionary that a .pth, .pt, .ckpt or .safetensors file holds, on the CPU.

    Raises:
        UserError: if there is no such file, it is no regular one, no checkpoint or truncated, holds
            pickled code, or claims to unpack to more than it is.
    """
    try:
        with open_regular(path) as file:
            return _read(path, file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the path of a checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a checkpoint") from error


def _read(path: Path, file: BinaryIO) -> dict[str, Any]:
    head = file.read(9)
    file.seek(0)
    try:
        if path.suffix == ".safetensors" or head[8:] == b"{":
            with safe_open(path, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if not head.startswith((b"PK", b"\x80")):
            raise UserError(_not_a_checkpoint(path))
        if head.startswith(b"PK"):
            _check_unpacked_size(path, file)
        with warnings.catch_warnings(action="ignore"):
            payload = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:
        # A damaged file may raise anything: EOFError, KeyError, OSError, ...
        refused = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)
        raise UserError(
            _holds_code(path, str(error)) if refused else _not_a_checkpoint(path)
        ) from error
    if not isinstance(payload, dict):
        raise UserError(f"{path}: holds a {type(payload).__name__}, not weights; save a state dict")
    return payload


def _check_unpacked_size(path: Path, file: BinaryIO) -> None:
    """Refuse an archive that would fill more memory than the file fills of the disk.

    torch.save compresses nothing, so it writes no such file.
    """
    with zipfile.ZipFile(file) as archive:
        unpacked = sum(each.file_size for each in archive.infolist())
    if unpacked > file.seek(0, os.SEEK_END):
        raise UserError(
            f"{path}: would unpack to {unpacked:,} bytes, more than it has; save the weights "
            "uncompressed, by torch.save"
        )
    file.seek(0)


def _not_a_checkpoint(path: Path) -> str:
    return f"{path}: is not a checkpoint, or is truncated; save or download it again"


def _holds_code(path: Path, refusal: str) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", refusal)
    what = f" ({named[1]})" if named else ""
    return (
        f"{path}: holds pickled code{what}, which is not run; where you trust the file, load it "
        "with torch.load(FILE, weights_only=False) and torch.save the model.state_dict() alone"
    )
