"""Kind `images`: files of every format, spoilt; and files that are no image but say so."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

from PIL import Image

from rlkd.data.images import ImageReader

from . import command_line
from .command import check_result, command
from .values import spoilt_bytes
from .verdict import Case, FailedError, Place

FORMATS = {
    "png": {},
    "jpeg": {},
    "gif": {},
    "bmp": {},
    "webp": {},
    "tiff": {},
    "ppm": {},
    "ico": {},
    "tga": {},
    "pcx": {},
    "sgi": {},
    "im": {},
    "dds": {},
    "jpeg2000": {},
    "avif": {},
    "spider": {},
    "msp": {},
    "xbm": {},
    "icns": {},
    "blp": {},
    "eps": {},
    "pdf": {},
    "mpo": {},
}
MODES = ("L", "RGB", "RGBA", "P", "1", "LA", "CMYK", "I;16", "I", "F", "YCbCr")
ENDINGS = ("png", "jpg", "jpeg", "bmp", "webp", "gif", "tiff", "tif", "ppm", "eps", "pdf", "svg")


def prepare(shared: Path) -> None:
    """Write an image of each format and mode that Pillow writes, and train a run."""
    command_line.prepare(shared)
    folder = shared / "formats"
    folder.mkdir()
    for name in FORMATS:
        for mode in MODES:
            written = io.BytesIO()
            try:
                pixels = Image.effect_noise((13, 9), 60).convert("L" if mode == "I;16" else mode)
                pixels = pixels.convert("I;16") if mode == "I;16" else pixels
                pixels.save(written, format=name)
            except Exception:  # which Pillow has many of
                continue
            (folder / f"{name}-{mode.replace(';', '')}").write_bytes(written.getvalue())
    frames = [Image.effect_noise((13, 9), 60 + each) for each in range(3)]
    for name in ("gif", "tiff", "png", "webp"):
        frames[0].save(folder / f"{name}-several", name, save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6
    frames[0].save(folder / "jpeg-turned", "jpeg", exif=turned)


def _png(
    width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 0, more: bytes = b""
) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + body


def _jpeg_of(width: int, height: int) -> bytes:
    written = io.BytesIO()
    Image.new("L", (8, 8)).save(written, "jpeg")
    content = written.getvalue()
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def _gif_of(width: int, height: int) -> bytes:
    written = io.BytesIO()
    Image.new("P", (8, 8)).save(written, "gif")
    return written.getvalue()[:6] + struct.pack("<HH", width, height) + written.getvalue()[10:]


def _tiff_of(width: int, height: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 4)]
    body = b"".join(struct.pack("<HHII", *each) for each in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + b"\0" * 4


KNOWN: dict[str, Callable[[], bytes]] = {
    "a JPEG that declares 65,500 x 65,500": lambda: _jpeg_of(65500, 65500),
    "a PNG that declares 2^31-1 x 2^31-1": lambda: _png(2**31 - 1, 2**31 - 1, b"\0" * 100),
    "a PNG that declares 50,000 x 50,000": lambda: _png(50000, 50000, b"\0" * 100),
    "a PNG of no width": lambda: _png(0, 5, b"\0" * 5),
    "a PNG of 1 x 60,000": lambda: _png(1, 60000, b"\0\1" * 60000),
    "a PNG of 9,000 x 9,000, all zero": lambda: _png(9000, 9000, b"\0" * 9001 * 9000),
    "a PNG of 16 bits": lambda: _png(2, 1, b"\0\1\2\3\4", depth=16),
    "a GIF that declares 65,535 x 65,535": lambda: _gif_of(65535, 65535),
    "a TIFF that declares 2^32-1 x 2^32-1": lambda: _tiff_of(2**32 - 1, 2**32 - 1),
    "a TIFF that declares 40,000 x 40,000": lambda: _tiff_of(40000, 40000),
    "a BMP that declares 30,000 x 30,000": lambda: (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "a PPM that declares 10^9 x 10^9": lambda: b"P6 1000000000 1000000000 255\n\0\0\0",
    "a PPM of digits without end": lambda: b"P6 " + b"9" * 100000 + b" 1 255\n",
    "PostScript": lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    ),
    "PostScript that loops": lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"
    ),
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script/></svg>',
    "an empty file": lambda: b"",
    "one byte": lambda: b"\xff",
    "a JPEG's first three bytes": lambda: b"\xff\xd8\xff",
    "zeros": lambda: b"\0" * 4096,
    "text": lambda: b"not an image, " * 300,
    "a FITS file": lambda: b"SIMPLE  =                    T" + b" " * 3000,
    "a WMF": lambda: b"\xd7\xcd\xc6\x9a" + b"\0" * 100,
    "a GRIB": lambda: b"GRIB" + b"\0" * 12,
    "an HDF5": lambda: b"\x89HDF\r\n\x1a\n" + b"\0" * 100,
    "an FLI of no frames": lambda: struct.pack("<IHHHH", 128, 0xAF11, 0, 9, 9) + b"\0" * 120,
    "a PNG with text that inflates to 60 MB": lambda: _png(
        1, 1, b"\0\0", more=_text_chunk(zlib.compress(b"\0" * 60_000_000, 9))
    ),
}
"""Content that each finding or attack comes from; also what is spoilt further."""


def _text_chunk(packed: bytes) -> bytes:
    body = b"zTXt" + b"Comment\0\0" + packed
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


SPECIAL = (
    "a FIFO",
    "a link to /dev/zero",
    "a link to itself",
    "a link to nothing",
    "a folder",
    "a socket",
)


def special(path: Path, what: str) -> None:
    """Put something at a path that is no regular file."""
    if what == "a FIFO":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    elif what == "a socket":
        os.mknod(path, 0o140644)
    else:
        goals = {"a link to /dev/zero": "/dev/zero", "a link to itself": path.name}
        path.symlink_to(goals.get(what, "nothing-here"))


def content(draw: Random, place: Place) -> tuple[str, bytes]:
    """Return what an image file holds, and what that is in words."""
    if draw.random() < 0.25:
        words = draw.choice(list(KNOWN))
        held = KNOWN[words]()
        if draw.random() < 0.4 and len(held) < 10**5:
            return f"{words}, spoilt", spoilt_bytes(draw, held)
        return words, held
    file = draw.choice(sorted((place.shared / "formats").iterdir()))
    held = file.read_bytes()
    if draw.random() < 0.1:
        return f"a {file.name}", held
    return f"a {file.name}, spoilt", spoilt_bytes(draw, held)


def make(draw: Random, place: Place) -> Case:
    """Draw an image, and whether the reader, `predict` or `train` reads it."""
    folder, name = place.given / "images", f"a.{draw.choice(ENDINGS)}"
    folder.mkdir()
    reader = draw.choice(("read", "read", "read", "predict", "predict one", "train"))
    if draw.random() < 0.15 and reader != "read":  # who reads files sees that these are none
        words = draw.choice(SPECIAL)
        special(folder / name, words)
    else:
        words, held = content(draw, place)
        (folder / name).write_bytes(held)
    words = f"{reader}: {words}, as {name}"
    if reader == "read":
        return Case(words, lambda: read(folder / name))
    skips = draw.choice(([], ["skip_unreadable=true"]))
    if reader.startswith("predict"):
        goal = folder if reader == "predict" else folder / name
        given = [f"run={place.shared}/run", f"images={goal}", "output=p", *skips]
        return Case(words, lambda: predicted(given))
    return Case(words, train(draw, place, folder))


def read(path: Path, channels: int = 3) -> str:
    """Read an image as all of rlkd does."""
    image = ImageReader(channels).read(path.read_bytes, path)
    if image.dim() != 3 or len(image) != channels or not image.numel():
        raise FailedError("nonsense", f"pixels of shape {tuple(image.shape)}", "pixels' shape")
    return f"pixels {tuple(image.shape)}, mean {image.float().mean():.1f}"


def predicted(given: list[str]) -> str:
    """Predict, and check what is written."""
    import json

    printed = command(["predict", *given])
    written = json.loads(Path("p/predictions.json").read_text(encoding="utf-8"))
    if "nan" in json.dumps(written).lower().replace('"', " ").split():
        raise FailedError("nonsense", str(written)[:1000], "NaN in predictions")
    return f"{printed} {str(written)[:200]}"


def train(draw: Random, place: Place, images: Path) -> Callable[[], str]:
    """Return what trains on a folder of classes, with the image in one of them."""
    root = place.given / "root"
    for split in ("train", "test"):
        for number, name in enumerate(("x", "y")):
            (root / split / name).mkdir(parents=True)
            for each in range(4):
                pixels = Image.new("RGB", (8, 8), (9 * each, 100 * number, 9))
                pixels.save(root / split / name / f"{each}.png")
    for each in list(images.iterdir()):
        each.rename(root / draw.choice(("train", "test")) / "x" / each.name)
    streamed = draw.random() < 0.5
    words = [
        f"data={'imagenet' if streamed else 'folder'}",
        f"data.root={root}",
        "data.image_size=8",
    ]
    words += ["data.workers=0", "data.resize=9", "data.test=test"] if streamed else []
    words += ["data.unreadable=skip"] if streamed and draw.random() < 0.5 else []
    small = [each for each in command_line.SMALL if not each.startswith(("data", "probe"))]

    def act() -> str:
        command(["train", *small, *words, "trainer.batch_size=4", "probe.size=0", "output=o"])
        return check_result(Path("o"))

    return act
