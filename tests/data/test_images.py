"""The one reader: deep, turned, animated and many-coloured images, in every loader alike."""

import io
import re
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tests.data.streams import add
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

import rlkd
from rlkd.data import Dataset, StreamSet, in_memory
from rlkd.data import images as reading
from rlkd.data.datasets import cifar10, imagenet, parquet, webdataset
from rlkd.data.datasets import folder as read_folder
from rlkd.data.images import ImageReader, UndecodableError, orientation
from rlkd.data.loaders.stream_set import Reading
from rlkd.errors import UserError

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
DEEP = LEVELS.astype(np.uint16) * 257
COLOURS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(64), 2 * np.arange(80))] * 3, axis=2).astype(np.uint8)


def encoded(pixels: NDArray[Any] | Image.Image, form: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    content = io.BytesIO()
    image.save(content, format=form, **options)
    return content.getvalue()


def read(content: bytes, channels: int = 3) -> Tensor:
    return ImageReader(channels).read(lambda: content, "some.png")


def oriented(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def big_endian_tiff(pixels: NDArray[np.uint16]) -> bytes:
    return encoded(pixels.astype(">u2"), "TIFF")


def deep_colours(pixels: NDArray[np.uint8], form: str) -> bytes:
    """A PNG or TIFF file of 16 bits a channel, which Pillow cannot write."""
    height, width, _ = pixels.shape
    deep = pixels.astype(np.uint16) * 257
    if form == "PNG":

        def chunk(kind: bytes, data: bytes) -> bytes:
            check = struct.pack(">I", zlib.crc32(kind + data))
            return struct.pack(">I", len(data)) + kind + data + check

        header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
        body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        return b"\x89PNG\r\n\x1a\n" + body
    data = deep.astype("<u2").tobytes()
    bits_at, data_at = 8 + 2 + 9 * 12 + 4, 8 + 2 + 9 * 12 + 4 + 6
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, bits_at),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, data_at),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]
    listed = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + listed
    return start + struct.pack("<I", 0) + struct.pack("<3H", 16, 16, 16) + data


@pytest.mark.parametrize(
    "content",
    [
        *(encoded(DEEP, form) for form in ("PNG", "TIFF", "PPM")),
        big_endian_tiff(DEEP),
    ],
)
def test_sixteen_bits_of_grey_are_scaled_to_eight_to_the_level(content: bytes) -> None:
    assert np.array_equal(read(content), np.stack([LEVELS] * 3))
    assert np.array_equal(read(content, channels=1)[0], LEVELS)


def test_scaling_rounds_to_the_nearest_level() -> None:
    deep = np.array([[0, 128, 129, 40000, 65406, 65407, 65535]], dtype=np.uint16)
    assert read(encoded(deep, "PNG"))[0].tolist() == [[0, 0, 1, 156, 254, 255, 255]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_of_colour_are_scaled_to_eight(form: str) -> None:
    content = deep_colours(COLOURS, form)
    assert np.array_equal(read(content).permute(1, 2, 0), COLOURS)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_of_unknown_range_are_refused_in_one_line(kind: type) -> None:
    content = encoded(DEEP.astype(kind), "TIFF")
    with pytest.raises(UndecodableError, match=r"^some\.png cannot be decoded \(.*no known range"):
        read(content)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("number", range(1, 9))
def test_every_orientation_is_turned_upright(form: str, number: int) -> None:
    content = encoded(SMOOTH, form, exif=oriented(number))
    with Image.open(io.BytesIO(content)) as opened:
        expected = ImageOps.exif_transpose(opened).convert("RGB")
    found = read(content)
    assert torch.equal(found, pil_to_tensor(expected))
    assert found.shape[1:] == ((64, 80) if number < 5 else (80, 64))
    assert orientation(content) == number


def test_a_jpeg_is_turned_alike_by_both_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    contents = [
        encoded(image, "JPEG", exif=oriented(number))
        for number in range(1, 9)
        for image in (SMOOTH, SMOOTH[:, :, 0])
    ]
    fast = [read(content, channels) for content in contents for channels in (1, 3)]
    monkeypatch.setattr(reading, "_simplejpeg", None)
    slow = [read(content, channels) for content in contents for channels in (1, 3)]
    assert all(torch.equal(one, other) for one, other in zip(fast, slow, strict=True))


def test_a_jpeg_without_exif_costs_no_second_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    content = encoded(SMOOTH, "JPEG")

    def opened(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(Image, "open", opened)
    assert read(content).shape == (3, 64, 80)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    content = encoded(SMOOTH, "PNG", exif=oriented(value))
    assert np.array_equal(read(content).permute(1, 2, 0), SMOOTH)


def test_broken_exif_does_no_harm_to_the_pixels() -> None:
    whole = encoded(SMOOTH, "JPEG", exif=oriented(6))
    broken = whole.replace(b"Exif\0\0MM\0*", b"Exif\0\0??\0*").replace(
        b"Exif\0\0II*\0", b"Exif\0\0??*\0"
    )
    assert broken != whole
    assert torch.equal(read(broken), read(encoded(SMOOTH, "JPEG")))


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *((mode, "JPEG") for mode in ("RGB", "L", "CMYK")),
        *((mode, "PNG") for mode in ("RGBA", "P", "LA", "1")),
        *(("RGB", form) for form in ("GIF", "BMP", "WEBP")),
    ],
)
@pytest.mark.parametrize(("channels", "wanted"), [(3, "RGB"), (1, "L")])
def test_any_format_and_colours_become_pillows_pixels(
    mode: str, form: str, channels: int, wanted: str
) -> None:
    content = encoded(Image.fromarray(SMOOTH).convert(mode), form)
    with Image.open(io.BytesIO(content)) as opened:
        expected = pil_to_tensor(opened.convert(wanted))
    assert torch.equal(read(content, channels), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_truncated_images_are_no_images(form: str) -> None:
    whole = encoded(COLOURS, form)
    for broken in (whole[: len(whole) // 2], whole[:20], b"", b"\xff\xd8"):
        with pytest.raises(UndecodableError, match=r"^some\.png cannot be decoded \([^\n]*\): "):
            read(broken)


def test_jpegs_are_the_same_without_the_faster_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    ways = ((95, 0), (75, 2), (30, 1))
    contents = [encoded(COLOURS, "JPEG", quality=q, subsampling=s) for q, s in ways]
    fast = [read(content) for content in contents]
    monkeypatch.setattr(reading, "_simplejpeg", None)
    assert all(torch.equal(one, read(each)) for one, each in zip(fast, contents, strict=True))
    with pytest.raises(UndecodableError):
        read(contents[0][:200])


def animation(form: str) -> bytes:
    frames = [Image.fromarray(np.full((16, 16, 3), level, dtype=np.uint8)) for level in (60, 200)]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_read_which_is_said_once(form: str) -> None:
    reader = ImageReader()
    with pytest.warns(UserWarning, match=r"^a\.gif has several frames") as said:
        images = [reader.read(lambda: animation(form), name) for name in ("a.gif", "b.gif")]
    assert all(bool((image == 60).all()) for image in images)
    assert len(said) == 1


def test_a_photograph_with_a_preview_is_no_animation() -> None:
    photograph = Image.fromarray(SMOOTH)
    content = encoded(photograph, "MPO", save_all=True, append_images=[photograph.resize((8, 8))])
    assert read(content).shape == (3, 64, 80)


SMALL: dict[str, Any] = {"image_size": 16, "resize": 16, "workers": 0}
GREY = [0, 60, 200, 255]


def written(root: Path, layout: str, content: Callable[[int], bytes], ending: str) -> Dataset:
    """One image of each grey, class by class, in a layout."""
    if layout in ("folder", "imagenet", "cifar10"):
        names = [str(k) for k in range(10)] if layout == "cifar10" else [str(k) for k in range(4)]
        for split in ("train", "test"):
            for number, name in enumerate(names):
                file = root / split / name / f"a.{ending}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content(number % 4))
        if layout == "cifar10":
            return cifar10(root=root)
        if layout == "imagenet":
            return imagenet(root=root, test="test", **SMALL)
        return read_folder(root=root, image_size=16)
    root.mkdir(parents=True)
    given = {"class_names": [str(k) for k in range(4)]}
    if layout == "parquet":
        rows = [{"bytes": content(number), "path": None} for number in range(4)]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        for split in ("train", "test"):
            table = pa.table({"image": pa.array(rows, type=kind), "label": list(range(4))})
            pq.write_table(table, root / f"{split}.parquet")
        return parquet(root=root, **given, **SMALL)
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as tar:
            for number in range(4):
                add(tar, f"{number}.{ending}", content(number))
                add(tar, f"{number}.cls", str(number).encode())
    return webdataset(root=root, **given, **SMALL)


LAYOUTS = ("folder", "imagenet", "cifar10", "parquet", "webdataset")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_every_loader_reads_sixteen_bits_as_it_reads_eight(
    layout: str, form: str, tmp_path: Path
) -> None:
    side = 32 if layout == "cifar10" else 16

    def deep(number: int) -> bytes:
        return encoded(np.full((side, side), GREY[number] * 257, dtype=np.uint16), form)

    dataset = written(tmp_path / "data", layout, deep, {"PNG": "png", "TIFF": "tif"}[form])
    test = dataset.test
    images = in_memory(test) if isinstance(test, StreamSet) else test
    assert images.image.float().mean(dim=(1, 2, 3)).tolist() == (GREY * 3)[: len(images)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_loader_turns_images_upright(layout: str, tmp_path: Path) -> None:
    side = 32 if layout == "cifar10" else 16
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    pixels[: side // 2] = 255  # orientation 3 puts the bright half below

    def turned(number: int) -> bytes:
        return encoded(pixels, "JPEG", exif=oriented(3), quality=100)

    test = written(tmp_path / "data", layout, turned, "jpg").test
    image = (in_memory(test) if isinstance(test, StreamSet) else test).image[0]
    assert image[:, : side // 2 - 1].max() < 10
    assert image[:, side // 2 + 1 :].min() > 245


def test_animations_in_a_folder_are_said_once_for_all_of_them(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="several frames") as said:
        written(tmp_path / "data", "folder", lambda _: animation("GIF"), "gif")
    assert len(said) == 1


def test_processes_that_decode_say_it_once_together(tmp_path: Path) -> None:
    dataset = written(tmp_path / "data", "imagenet", lambda _: animation("GIF"), "gif")
    train, test = dataset.train, dataset.test
    assert isinstance(train, StreamSet)
    assert isinstance(test, StreamSet)
    with warnings.catch_warnings(action="ignore"):  # what is said in another process
        assert len(in_memory(replace(train, reading=Reading(workers=2)))) == 4
    assert len(in_memory(test)) == 4  # a warning would be an error


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_numbers_of_channels_are_refused(channels: int) -> None:
    with pytest.raises(UserError, match=rf"data\.channels={channels}: give 3"):
        ImageReader(channels)


def test_nothing_but_the_reader_opens_somebodys_images() -> None:
    opens = re.compile(
        r"Image\.open\(|from PIL import .*\bopen\b|simplejpeg|default_loader|read_image\("
        r"|decode_(image|jpeg|png)\(|imread\("
    )
    package = Path(rlkd.__file__).parent
    found = [path for path in package.rglob("*.py") if opens.search(path.read_text())]
    assert found == [package / "data" / "images.py"]


def test_sixteen_bits_of_a_tiff_whose_zero_is_white_are_as_its_eight(tmp_path: Path) -> None:
    grey = torch.arange(256, dtype=torch.int64).view(16, 16).numpy()
    shown = ImageReader().read(_white_is_zero(grey.astype(np.uint8)), "a.tif")
    deep = ImageReader().read(_white_is_zero((grey * 257).astype(np.uint16)), "b.tif")
    assert torch.equal(deep, shown)
    assert int(shown[0, 0, 0]) == 255


def _white_is_zero(pixels: NDArray[Any]) -> Callable[[], bytes]:
    """Return the content of a TIFF file, its PhotometricInterpretation (262) set to 0."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF")
    entry = struct.pack("<HHI", 262, 3, 1)
    (at,) = (each.end() for each in re.finditer(re.escape(entry), file.getvalue()))
    content = bytearray(file.getvalue())
    content[at] = 0
    return lambda: bytes(content)
