"""The headers of a tar file: which files are in it, and that they are."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO

_BLOCK = 512
_END = 40 * _BLOCK
"""Bytes that are looked at behind the first empty block: as many as writers fill up with."""
_LARGEST = 2**20
"""Bytes of what extends a header, such as by a long name."""
_LONG_NAME, _EXTENDED, _SPARSE = b"L", (b"x", b"X"), b"S"
_FILES = (b"0", b"\0", b"7")
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")
"""Links, devices, folders and FIFOs, whatever size they declare."""
_WHOLE = "it does not close with an end mark"


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar file."""

    name: str
    begin: int
    """Where its content begins, in bytes."""
    size: int
    """Of its content, in bytes; there are as many."""


def members(file: FileIO) -> Iterator[Member]:
    """Yield the regular files in an uncompressed tar file, as ustar, GNU tar and pax write it.

    Nothing that a header declares is taken on trust: sizes are held against the file's.

    Raises:
        ValueError: if it is no such file, is damaged or cut short, declares more bytes than there
            are, or stores a file with holes.
    """
    descriptor, at = file.fileno(), 0
    total = os.fstat(descriptor).st_size
    extended: dict[bytes, bytes] = {}
    while any(header := os.pread(descriptor, _BLOCK, at)):
        if len(header) < _BLOCK or _octal(header[148:156]) != _checksum(header):
            raise ValueError(_WHOLE)
        kind, begin = header[156:157], at + _BLOCK
        size = _number(header[124:136])
        further = kind == _LONG_NAME or kind in _EXTENDED
        if not further and b"size" in extended:
            size = _decimal(extended[b"size"])
        name = extended.get(b"path") or _name(header)
        if kind in _WITHOUT_CONTENT or (kind == b"\0" and name.endswith(b"/")):
            kind, size = b"5", 0
        at = begin + -(-size // _BLOCK) * _BLOCK
        if at > total:
            raise ValueError(f"it declares {size:,} bytes where {max(total - begin, 0):,} are")
        if further:
            if size > _LARGEST:
                raise ValueError(f"a header of it has {size:,} bytes, above {_LARGEST:,}")
            content = os.pread(descriptor, size, begin)
            extended |= _records(content) if kind in _EXTENDED else {b"path": _text(content)}
            continue
        if kind == _SPARSE or any(key.startswith(b"GNU.sparse") for key in extended):
            raise ValueError("it stores a file with holes, as tar --sparse does")
        if kind in _FILES:
            yield Member(name.decode(errors="surrogateescape"), begin, size)
        if kind not in (b"K", b"g"):  # a long link's name, and what is said of all files
            extended = {}
    end = os.pread(descriptor, _END, at)
    if len(end) < _BLOCK or any(end):
        raise ValueError(_WHOLE)


def _checksum(header: bytes) -> int:
    return sum(header[:148]) + 8 * ord(" ") + sum(header[156:])


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _name(header: bytes) -> bytes:
    name, folder = _text(header[:100]), _text(header[345:500])
    return folder + b"/" + name if folder and header[257:263] == b"ustar\0" else name


def _octal(field: bytes) -> int:
    digits = _text(field).strip()
    if not re.fullmatch(rb"[0-7]*", digits):
        raise ValueError(_WHOLE)
    return int(digits or b"0", 8)


def _number(field: bytes) -> int:
    """Read a number as octal digits, or as GNU tar writes it where these do not suffice."""
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)


def _decimal(digits: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,19}", digits):
        raise ValueError(f"a header of it has {digits[:20]!a} for a number")
    return int(digits)


def _records(content: bytes) -> dict[bytes, bytes]:
    """Read what pax says further of a file: a length, a key and a value each."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(content) and content[at]:
        length, space, _ = content[at : at + 20].partition(b" ")
        end = at + _decimal(length)
        key, equals, value = content[at + len(length) + 1 : end - 1].partition(b"=")
        if not space or not equals or content[end - 1 : end] != b"\n":
            raise ValueError("a header of it is damaged")
        found[key] = value
        at = end
    return found
