"""Hostile files of weights: bytes, zips, headers, tensors and pickles that nobody should load."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from . import images
from .values import spoilt_bytes
from .verdict import Place


def odd_tensors(draw: Random, state: dict[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """Return a state dict one of whose entries is not what it should be, and which in words."""
    changed: dict[str, Any] = dict(state)
    name = draw.choice(list(changed))
    given = changed[name]
    odd: dict[str, Callable[[], Any]] = {
        "NaN": lambda: given * float("nan"),
        "infinite": lambda: torch.full_like(
            given, draw.choice((float("inf"), -float("inf"))), dtype=torch.float32
        ),
        "huge": lambda: torch.full_like(given, 3e38, dtype=torch.float32),
        "sparse": lambda: given.to_sparse(),
        "csr": lambda: torch.eye(4).to_sparse_csr(),
        "meta": lambda: given.to("meta"),
        "quantised": lambda: torch.quantize_per_tensor(given.float(), 0.1, 0, torch.qint8),
        "complex": lambda: given.to(torch.complex64),
        "whole numbers": lambda: given.to(torch.int64),
        "truth values": lambda: given > 0,
        "half": lambda: given.half(),
        "double": lambda: given.double(),
        "float8": lambda: given.float().to(torch.float8_e4m3fn),
        "empty": lambda: torch.empty(0),
        "a number": lambda: torch.tensor(1.0),
        "expanded": lambda: torch.zeros(1).expand(given.shape) if given.dim() else torch.zeros(1),
        "expanded without end": lambda: torch.zeros(1).expand(2**40),
        "of 70 dimensions": lambda: torch.zeros([1] * 63),
        "another shape": lambda: torch.zeros(*given.shape, 2),
        "a parameter": lambda: torch.nn.Parameter(given.float()),
        "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        "None": lambda: None,
        "a list": lambda: given.tolist(),
        "a text": lambda: "x" * 1000,
        "a dictionary": lambda: {"a": given},
        "itself": lambda: changed,
        "conjugate": lambda: torch.zeros(given.shape, dtype=torch.complex64).conj(),
        "missing": lambda: None,
        "named by a number": lambda: given,
        "named oddly": lambda: given,
    }
    what = draw.choice(list(odd))
    changed[name] = odd[what]()
    if what in ("missing", "named by a number", "named oddly"):
        del changed[name]
    if what == "named by a number":
        changed[draw.choice((5, 1.5, None, (1, 2)))] = given  # type: ignore[index]
    elif what == "named oddly":
        changed[draw.choice(("\x1b[2J", "[/b]", "a\nb", "x" * 10_000, "", "\ud800"))] = given
    return f"{name} {what}", changed


def odd_payload(draw: Random, state: dict[str, Tensor]) -> tuple[str, Any]:
    """Return what a file holds in the place of a dictionary of weights."""
    deep: Any = state
    for _ in range(draw.choice((2, 5, 900))):
        deep = {draw.choice(("model", "state_dict", "x")): deep}
    circle: dict[str, Any] = {"a": 1}
    circle["model"] = circle
    what: dict[str, Any] = {
        "deep": deep,
        "a circle": circle,
        "a list": [state],
        "a tensor": torch.zeros(3),
        "a number": 5,
        "a text": "x",
        "None": None,
        "nothing": {},
        "two that fit": {"a": state, "b": {k: v + 1 for k, v in state.items()}},
        "numbers": dict.fromkeys(map(str, range(2000)), 1.5),
        "a thousand tensors": {f"t{each}": torch.zeros(2) for each in range(1000)},
        "a state of two": {
            "model": state,
            "epoch": float("nan"),
            "acc": torch.tensor(float("inf")),
            "name": "[/b]\x1b",
        },
        "keys of all kinds": {1: state, None: 2, (1, 2): 3, "model": state},
    }
    name = draw.choice(list(what))
    return name, what[name]


class Code:
    """Pickles as a call; of `open`, which the watch would see."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> Any:
        """Return the call."""
        return self.call, self.arguments


def pickled_code(draw: Random, place: Place, state: dict[str, Tensor]) -> Any:
    """Return what would write a file where it were unpickled."""
    target = str(place.given / "written-by-a-pickle")
    call = draw.choice(
        (
            Code(open, target, "w"),
            Code(os.mkdir, target),
            Code(exec, f"open({target!r}, 'w')"),
            Code(os.system, f"touch {target}"),
            Code(getattr, torch, "load"),
            Code(torch.load, target),
        )
    )
    return draw.choice(
        (call, {"model": state, "x": call}, {**state, "x": call}, {"state_dict": call})
    )


def safetensors_file(draw: Random, content: bytes) -> tuple[str, bytes]:
    """Return a safetensors file with another header."""
    size = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]
    name = draw.choice([each for each in header if each != "__metadata__"])
    text: bytes | None = None
    what = draw.choice(
        ("length", "json", "offsets", "dtype", "shape", "deep", "metadata", "twice", "names")
    )
    if what == "length":
        return what, struct.pack(
            "<Q", draw.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(content)))
        ) + content[8:]
    if what == "json":
        text = draw.choice(
            (
                b"{}",
                b"[]",
                b"null",
                b"{",
                b"",
                b"\xff" * 40,
                b"5",
                b'{"a": 5}',
                b'{"__metadata__": 5}',
            )
        )
    elif what == "offsets":
        header[name]["data_offsets"] = draw.choice(
            (
                [0, 2**63],
                [-1, 4],
                [8, 4],
                [0, 0],
                [0],
                "x",
                [0.5, 4],
                [0, len(body)],
                [0, len(body) + 4],
            )
        )
    elif what == "dtype":
        header[name]["dtype"] = draw.choice(
            ("F16", "F64", "I64", "BOOL", "F8_E4M3", "C64", "", "X", 5, None)
        )
    elif what == "shape":
        header[name]["shape"] = draw.choice(
            ([2**62, 2**62], [-1], [0], [], [1] * 100, "x", [1.5], [2**64])
        )
    elif what == "deep":
        text = b'{"a":' + b"[" * 100_000
    elif what == "metadata":
        header["__metadata__"] = draw.choice(
            ({"format": "pt" * 10**6}, {"format": "tf"}, {"format": 5}, [], {"\x1b": "\x1b"})
        )
    elif what == "twice":
        plain = json.dumps(header)
        text = (plain[:-1] + "," + plain[1:]).encode()
    else:
        header[draw.choice(("", "x" * 100_000, "a\nb", "\x1b[2J", "é"))] = header.pop(name)
    text = json.dumps(header).encode() if text is None else text
    return what, struct.pack("<Q", len(text)) + text + body


def spoilt_zip(draw: Random, content: bytes) -> tuple[str, bytes]:
    """Return a torch file, a zip, of which one entry is spoilt, its checksum right again."""
    written, what = (
        io.BytesIO(),
        draw.choice(("pickle", "pickle", "data", "missing", "version", "names", "byteorder")),
    )
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for each in old.infolist():
            held, name = old.read(each), each.filename
            if what == "pickle" and name.endswith(".pkl"):
                held = spoilt_bytes(draw, held)
            elif what == "data" and "/data/" in name and draw.random() < 0.3:
                held = draw.choice((held[:-4], b"", held * 2, spoilt_bytes(draw, held)))
            elif what == "missing" and draw.random() < 0.2:
                continue
            elif what == "version" and name.endswith("version"):
                held = draw.choice((b"999999", b"", b"x", b"-1", b"9" * 10000))
            elif what == "byteorder" and name.endswith("byteorder"):
                held = draw.choice((b"big", b"x", b""))
            elif what == "names":
                name = draw.choice((name, f"../{name}", f"/{name}", name + "x"))
            new.writestr(name, held)
    return f"zip: {what}", written.getvalue()


def weights(draw: Random, place: Place) -> tuple[str, Path]:
    """Write a hostile file of weights; return what it is and where."""
    files = sorted((place.shared / "weights").iterdir())
    file = draw.choice(files)
    endings = (file.suffix, file.suffix, ".pt", ".pth", ".ckpt", ".safetensors", "", ".bin")
    path = place.given / f"w{draw.choice(endings)}"
    content = file.read_bytes()
    kind = draw.choice(
        ("bytes", "bytes", "tensors", "tensors", "payload", "code", "safetensors", "zip", "special")
    )
    state = safetensors.torch.load_file(place.shared / "weights" / "student.safetensors")
    if kind == "bytes":
        words, content = file.name, spoilt_bytes(draw, content)
    elif kind == "safetensors":
        words, content = safetensors_file(
            draw, (place.shared / "weights" / "student.safetensors").read_bytes()
        )
    elif kind == "zip":
        words, content = spoilt_zip(draw, (place.shared / "weights" / "plain.pt").read_bytes())
    elif kind == "special":
        words = draw.choice((*images.SPECIAL, *images.KNOWN))
        if words in images.SPECIAL:
            images.special(path, words)
            return words, path
        content = images.KNOWN[words]()
    else:
        words, held = "", pickled_code(draw, place, state) if kind == "code" else None
        if kind == "tensors":
            words, held = odd_tensors(draw, state)
            held = {"model": held} if draw.random() < 0.2 else held
        elif kind == "payload":
            words, held = odd_payload(draw, state)
        content = written(draw, held, kind)
    path.write_bytes(content)
    return f"{kind} {words} as {path.name}", path


def written(draw: Random, held: Any, kind: str) -> bytes:
    """Return a file of what is held; as a pickle alone where torch cannot write it."""
    target = io.BytesIO()
    try:
        zipped = draw.random() < 0.8
        torch.save(held, target, _use_new_zipfile_serialization=zipped)
    except Exception:  # of what no file can hold
        try:
            return pickle.dumps(str(type(held)) if kind != "code" else held)
        except Exception:
            return b"\x80\x02."
    return target.getvalue()
