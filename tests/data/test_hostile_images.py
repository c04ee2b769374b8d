"""Image files that are made to do harm: programs, bombs, and files that never end."""

import io
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image
from tests.data.streams import COUNT, SMALL, in_folder, loader_of

from rlkd.data import StreamSet
from rlkd.data import images as reading
from rlkd.data.datasets import imagenet
from rlkd.data.images import FORMATS, MAX_PIXELS, ImageReader, UndecodableError, image_bytes
from rlkd.errors import UserError
from rlkd.tasks.prediction_folder import batches

TOO_MANY = r"some\.png cannot be decoded \(it has more than 178,956,970 pixels\): replace"


def read(content: bytes) -> tuple[int, ...]:
    return tuple(ImageReader().read(lambda: content, "some.png").shape)


def saved(form: str, side: int = 16, **options: object) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (side, side), (9, 99, 200)).save(content, form, **options)
    return content.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def png(width: int, height: int, *further: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\1\2\3"))
    return b"\x89PNG\r\n\x1a\n" + b"".join([header, *further, pixels, chunk(b"IEND", b"")])


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
(written) (w) file dup (by an image) writestring closefile
showpage
%%EOF
"""


def test_an_image_that_is_a_program_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\necho run >> {tmp_path}/written\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    file, written = tmp_path / "a.png", tmp_path / "written"
    file.write_bytes(POSTSCRIPT)
    with pytest.raises(UndecodableError, match=r"a\.png cannot be decoded \(it is none of JPEG"):
        ImageReader().read(file.read_bytes, file)
    with pytest.raises(UserError, match=r"a\.png cannot be decoded .* or give skip_unreadable"):
        list(batches([file], 1, skip_unreadable=False))
    assert not written.exists()
    with Image.open(file) as opened, pytest.raises(OSError, match="cannot identify"):
        opened.load()
    assert written.exists()  # this is what Pillow does with it


@pytest.mark.parametrize("form", ["ICO", "TGA", "PCX", "SGI", "DDS", "MSP"])
def test_formats_that_nobody_calls_an_image_file_are_not_decoded(form: str) -> None:
    content = io.BytesIO()
    Image.new("1" if form == "MSP" else "RGB", (32, 32)).save(content, form)
    Image.open(content).load()  # which Pillow does
    with pytest.raises(UndecodableError, match=f"it is none of {', '.join(FORMATS)}"):
        read(content.getvalue())


def resized(content: bytes, at: int, kind: str, *sides: int) -> bytes:
    """An image file whose header declares another size."""
    size = struct.calcsize(kind)
    return content[:at] + struct.pack(kind, *sides) + content[at + size :]


def jpeg(side: int) -> bytes:
    content = saved("JPEG")
    return resized(content, content.index(b"\xff\xc0") + 5, ">HH", side, side)


def tiff(side: int) -> bytes:
    content = saved("TIFF")
    for tag in (256, 257, 278):
        entry = struct.pack("<H", tag)
        at = content.index(entry, struct.unpack_from("<I", content, 4)[0])
        content = resized(content, at, "<HHII", tag, 4, 1, side)
    return content


HUGE: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: jpeg(65_500),
    "PNG": lambda: png(100_000, 100_000),
    "GIF": lambda: resized(saved("GIF"), 6, "<HH", 65_535, 65_535),
    "WEBP": lambda: resized(saved("WEBP"), 26, "<HH", 16_383, 16_383),
    "TIFF": lambda: tiff(100_000),
    "BMP": lambda: resized(saved("BMP"), 18, "<ii", 100_000, 100_000),
    "PPM": lambda: b"P6 100000 100000 255\n" + bytes(300),
    "another PPM": lambda: b"P3 100000 100000 255\n1 2 3",
}


@pytest.mark.parametrize("form", HUGE)
@pytest.mark.parametrize("fast", [True, False])
def test_more_pixels_than_memory_holds_are_refused_by_the_header(
    form: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = HUGE[form]()
    assert len(content) < 2000

    def decode(*_: object, **__: object) -> None:
        raise AssertionError

    if fast:
        monkeypatch.setattr(pytest.importorskip("simplejpeg"), "decode_jpeg", decode)
    else:
        monkeypatch.setattr(reading, "_simplejpeg", None)
    monkeypatch.setattr(Image.Image, "load", decode)
    with pytest.raises(UndecodableError, match=TOO_MANY):
        read(content)


def test_the_limits_are_those_that_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(reading, "MAX_PIXELS", 16 * 16)
    assert all(read(saved(form, 16)) == (3, 16, 16) for form in FORMATS)
    for form in FORMATS:
        with pytest.raises(UndecodableError, match=TOO_MANY):
            read(saved(form, 17))
    monkeypatch.setattr(reading, "MAX_BYTES", 100)
    with pytest.raises(UndecodableError, match=r"\(it has [1-9][0-9]+ bytes, above 100\)"):
        read(saved("BMP"))


def test_pixels_that_are_gone_over_too_often_are_refused() -> None:
    whole = saved("JPEG", 2000, progressive=True)
    assert read(whole) == (3, 2000, 2000)
    last = whole[whole.rindex(b"\xff\xda\0") : -2]
    with pytest.raises(UndecodableError, match=r"it has more than 894 scans of its 2,000 x 2,000"):
        read(whole[:-2] + 900 * last + whole[-2:])


BOMB = zlib.compress(bytes(10**8))


@pytest.mark.parametrize(
    "further",
    [
        chunk(b"zTXt", b"a\0\0" + BOMB),
        chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB),
        chunk(b"iCCP", b"a\0\0" + BOMB),
    ],
    ids=["text", "international text", "colours"],
)
def test_what_is_beside_the_pixels_is_not_unpacked_without_end(further: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(UndecodableError, match=r"\(Decompressed data too large .*\): replace"):
            read(png(1, 1, further))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize(
    "further",
    [
        chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(100)),
    ],
    ids=["frames", "EXIF"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_beside_the_pixels_may_be_nonsense(further: bytes) -> None:
    assert read(png(1, 1, further)) == (3, 1, 1)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def holes(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**42)


NO_FILES = {"a FIFO": fifo, "a device": endless, "4,398,046,511,104 bytes": holes}


@pytest.mark.parametrize("told", NO_FILES)
def test_what_never_ends_is_one_unreadable_image(tmp_path: Path, told: str) -> None:
    dataset = in_folder(tmp_path, unreadable="skip")
    assert isinstance(dataset.train, StreamSet)
    file = Path(dataset.train.place(3))
    file.unlink()
    NO_FILES[told](file)
    index = [row for b in loader_of(dataset.train, shuffle=False) for row in b.index.tolist()]
    assert index == [row for row in range(COUNT) if row != 3]
    with pytest.raises(UserError, match=rf"09\.png cannot be decoded \(it (is|has) {told}"):
        list(loader_of(imagenet(root=tmp_path, **SMALL).train, shuffle=False))
    with pytest.raises(UserError, match=rf"09\.png cannot be decoded \(it (is|has) {told}"):
        list(batches([file], 1, skip_unreadable=False))
    with pytest.raises(OSError, match=told):
        image_bytes(file)
