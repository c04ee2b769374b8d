"""How fast images are decoded and augmented, against Pillow with torchvision's v1 transforms.

Each way takes the content of a file to what a worker of a loader gives: a random crop of it resized
to 224 x 224, mirrored at random, uint8. All ways take turns image by image, in a new order every
round, in one thread, and get the same crops; seconds are of the processor, which what else the
machine does falsifies least. `rlkd` is the package's own, its random draws included. The difference
is the mean over pixels from the first way, in levels of 255. Readers that are not installed are
left out.

    RLKD_DATA=DIR python benchmarks/decode.py
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.transforms import functional as v1

from rlkd.data.images import ImageReader
from rlkd.data.seeding import generator_of
from rlkd.data.transforms.resized_crop import Crop, Views
from rlkd.reporting import hardware, versions

VIEWS = Views()
SIZE = VIEWS.size[0]
READER = ImageReader()
FIRST = "Pillow, torchvision v1"
Way = Callable[[bytes, Crop], Tensor]


def pillow_v1(content: bytes, crop: Crop) -> Tensor:
    with Image.open(BytesIO(content)) as opened:
        image = opened.convert("RGB")
    size = [SIZE, SIZE]
    image = v1.resized_crop(image, crop.top, crop.left, crop.height, crop.width, size)
    return v1.pil_to_tensor(v1.hflip(image) if crop.mirrored else image)


def pillow_draft(content: bytes, crop: Crop) -> Tensor:
    """Let libjpeg decode at half the size or less, where the crop is that large."""
    with Image.open(BytesIO(content)) as opened:
        width, height = opened.size
        share = SIZE / min(crop.height, crop.width)
        opened.draft("RGB", (int(width * share) + 1, int(height * share) + 1))
        image = opened.convert("RGB")
    down, across = image.height / height, image.width / width
    smaller = Crop(
        int(crop.top * down),
        int(crop.left * across),
        int(crop.height * down),
        int(crop.width * across),
        crop.mirrored,
    )
    return VIEWS.cut(torch.from_numpy(np.array(image)).permute(2, 0, 1), smaller)


def with_torch(read: Callable[[bytes], Any]) -> Way:
    """Decode by a reader that gives an array (height, width, 3), and crop as the package does."""

    def way(content: bytes, crop: Crop) -> Tensor:
        return VIEWS.cut(torch.from_numpy(read(content)).permute(2, 0, 1), crop)

    return way


def pillow(content: bytes) -> Any:
    with Image.open(BytesIO(content)) as opened:
        return np.array(opened.convert("RGB"))


def torchvision_io() -> Way:
    io = importlib.import_module("torchvision.io")

    def way(content: bytes, crop: Crop) -> Tensor:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return VIEWS.cut(io.decode_jpeg(data, mode=io.ImageReadMode.RGB), crop)

    return way


def torchcodec() -> Way:
    decoders = importlib.import_module("torchcodec.decoders")

    def way(content: bytes, crop: Crop) -> Tensor:
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        return VIEWS.cut(decoders.decode_image(data, mode="RGB"), crop)

    return way


def simplejpeg() -> Way:
    module = importlib.import_module("simplejpeg")
    return with_torch(lambda content: module.decode_jpeg(content, colorspace="RGB"))


def imagecodecs() -> Way:
    module = importlib.import_module("imagecodecs")
    return with_torch(lambda content: module.jpeg8_decode(content, outcolorspace="RGB"))


def kornia() -> Way:
    module = importlib.import_module("kornia_rs")
    return with_torch(module.io.decode_image_jpeg)


def opencv_torch() -> Way:
    module = importlib.import_module("cv2")
    module.setNumThreads(1)

    def read(content: bytes) -> Any:
        return module.imdecode(np.frombuffer(content, np.uint8), module.IMREAD_COLOR_RGB)

    return with_torch(read)


def opencv() -> Way:
    module = importlib.import_module("cv2")
    module.setNumThreads(1)

    def way(content: bytes, crop: Crop) -> Tensor:
        image = module.imdecode(np.frombuffer(content, np.uint8), module.IMREAD_COLOR_RGB)
        part = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
        smaller = crop.height > SIZE and crop.width > SIZE
        kind = module.INTER_AREA if smaller else module.INTER_LINEAR
        square = torch.from_numpy(module.resize(part, (SIZE,) * 2, interpolation=kind))
        square = square.permute(2, 0, 1)
        return square.flip(2) if crop.mirrored else square

    return way


MAKERS: dict[str, tuple[str, Callable[[], Way]]] = {
    FIRST: ("pillow", lambda: pillow_v1),
    "Pillow, torch's resize": ("pillow", lambda: with_torch(pillow)),
    "Pillow with draft, torch's resize": ("pillow", lambda: pillow_draft),
    "torchvision.io, torch's resize": ("torchvision", torchvision_io),
    "torchcodec, torch's resize": ("torchcodec", torchcodec),
    "simplejpeg, torch's resize": ("simplejpeg", simplejpeg),
    "imagecodecs, torch's resize": ("imagecodecs", imagecodecs),
    "kornia-rs, torch's resize": ("kornia-rs", kornia),
    "OpenCV, torch's resize": ("opencv-python-headless", opencv_torch),
    "OpenCV, its own resize": ("opencv-python-headless", opencv),
}


def own(content: bytes, row: int) -> Tensor:
    image = READER.read(lambda: content, "it")
    height, width = image.shape[1:]
    return VIEWS.cut(image, VIEWS.draw(height, width, generator_of(0, 0, row, 0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decode.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)  # torchvision's, of its own decoders
    root = Path(os.environ["RLKD_DATA"]) / "imagenet_sample"
    files = sorted(root.rglob("*.JPEG"))[: arguments.images]
    contents = [file.read_bytes() for file in files]
    crops: list[Crop] = []
    for row, content in enumerate(contents):
        width, height = Image.open(BytesIO(content)).size
        crops.append(VIEWS.draw(height, width, generator_of(0, 0, row, 0)))

    ways: dict[str, Way] = {}
    left_out: dict[str, str] = {}
    for name, (_, make) in MAKERS.items():
        try:
            ways[name] = make()
            ways[name](contents[0], crops[0])
        except Exception as error:  # whatever a reader's libraries raise where they are not whole
            left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            ways.pop(name, None)
    names = [*ways, "rlkd"]
    seconds: dict[str, list[float]] = {name: [0.0] * arguments.rounds for name in names}
    order = random.Random(0)
    for round_ in range(arguments.rounds):
        for row, content in enumerate(contents):
            for name in order.sample(names, len(names)):
                began = time.process_time()
                if name == "rlkd":
                    own(content, row)
                else:
                    ways[name](content, crops[row])
                seconds[name][round_] += time.process_time() - began
    ways["rlkd"] = lambda content, crop: VIEWS.cut(READER.read(lambda: content, "it"), crop)
    apart = {name: difference(way, ways[FIRST], contents, crops) for name, way in ways.items()}

    rates = {name: len(files) / statistics.median(each) for name, each in seconds.items()}
    table = Table(title=f"{len(files)} images, one thread of {hardware()}")
    for column in ("way", "images/s", f"x {FIRST}", "difference in levels"):
        table.add_column(column)
    for name, rate in rates.items():
        ratio = rate / rates[FIRST]
        table.add_row(name, f"{rate:.0f}", f"{ratio:.2f}", f"{apart[name]:.2f}")
    console = Console()
    console.print(table)
    for name, why in left_out.items():
        console.print(f"left out: {name} ({why})", highlight=False)
    packages = sorted({MAKERS[name][0] for name in names if name in MAKERS})
    report = {
        "command": " ".join(["python benchmarks/decode.py", *sys.argv[1:]]),
        "hardware": hardware(),
        "threads": 1,
        "versions": versions() | {each: importlib.metadata.version(each) for each in packages},
        "images": len(files),
        "left_out": left_out,
        "cpu_seconds_a_round": seconds,
        "images_per_second": rates,
        "over_first": {name: rate / rates[FIRST] for name, rate in rates.items()},
        "mean_difference_in_levels": apart,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def difference(way: Way, first: Way, contents: list[bytes], crops: list[Crop]) -> float:
    apart = [
        float((way(content, crop).int() - first(content, crop).int()).abs().float().mean())
        for content, crop in zip(contents, crops, strict=True)
    ]
    return statistics.mean(apart)


if __name__ == "__main__":
    main()
