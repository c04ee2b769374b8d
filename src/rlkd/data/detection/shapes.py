"""Generated scenes of shapes with their boxes: detection's data that need no download.

A scene has a textured, noisy ground and one to four shapes, of any colour that stands out, turned
at random, lightly blurred, and covering each other a little.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rlkd import arguments
from rlkd.data.detection.annotation_checks import AnnotationTable, ImageTable
from rlkd.data.detection.coco import DetectionSets
from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.detection.images import MemoryImages

CLASS_NAMES = ("circle", "square", "triangle", "cross", "star")
"""The kinds of shapes, in the order of their category ids, 1 to 5."""

_LARGEST_SIZE = 4096
_MOST_PIXELS = 2**30
"""Of all scenes of a part together, which are held in memory: 3 GiB."""
_MOST_SHAPES = 4
_MOST_COVERED = 0.3
"""The share of the smaller of two boxes that both may cover; their IoU is then no higher."""
_SMALLEST, _LARGEST = 1 / 8, 1 / 2
"""Diameter of a shape's circumscribed circle, in shares of the image's side."""
_TRIES = 20
_CONTRAST = 70.0
"""How far a shape's colour is from the ground's in at least one channel, in levels."""

_Mask = NDArray[np.bool_]
_Pixels = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Shape:
    """A shape before anything covers it."""

    kind: int
    mask: _Mask
    box: tuple[int, int, int, int]
    """Left, top, right and bottom."""


@dataclass(frozen=True, slots=True)
class _Scene:
    """An image and, for each shape, its kind and the pixels of it that can be seen."""

    image: NDArray[np.uint8]
    kinds: tuple[int, ...]
    masks: tuple[_Mask, ...]


def shapes(*, train: int = 512, test: int = 256, size: int = 96, seed: int = 0) -> DetectionSets:
    """Generate scenes to train and to test on, in memory.

    A scene depends on the seed, its part and its row alone: a larger set begins with a smaller one.

    Args:
        train: how many scenes to train on, 1 to 10^6, of 2^30 pixels in all.
        test: how many to test on, likewise.
        size: height and width in pixels, 48 to 4096.
        seed: of everything that is random, 0 or above.

    Raises:
        UserError: if an option is out of its range.
    """
    arguments.count("data.size", size, least=48, most=_LARGEST_SIZE)
    for name, value in (("train", train), ("test", test)):
        arguments.count(f"data.{name}", value, most=min(10**6, _MOST_PIXELS // size**2))
    arguments.seed("data.seed", seed)
    return DetectionSets(
        train=_generate(train, size, (seed, 0)),
        test=_generate(test, size, (seed, 1)),
        name="shapes",
    )


def write_shapes(
    folder: Path, *, train: int = 512, test: int = 256, size: int = 96, seed: int = 0
) -> None:
    """Write the same scenes as PNG files and annotation files, named as COCO's are.

    Args:
        folder: where to; made if it is not there, files of the same names are replaced.
        train: how many scenes to train on, 1 to 10^6, of 2^30 pixels in all.
        test: how many to test on, likewise.
        size: height and width in pixels, 48 to 4096.
        seed: of everything that is random, 0 or above.

    Raises:
        UserError: if an option is out of its range.
    """
    sets = shapes(train=train, test=test, size=size, seed=seed)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for part, images in (("train2017", sets.train), ("val2017", sets.test)):
        (folder / part).mkdir(exist_ok=True)
        for row in range(len(images)):
            pixels = images.image(row).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / part / images.file_name(row))
        content = json.dumps(images.ground_truth())
        (folder / "annotations" / f"instances_{part}.json").write_text(content, encoding="utf-8")


def _generate(count: int, size: int, key: tuple[int, int]) -> CocoSet:
    scenes = [_scene(size, np.random.default_rng((*key, row))) for row in range(count)]
    masks = [mask for scene in scenes for mask in scene.masks]
    corners = torch.tensor([_tight_box(mask) for mask in masks], dtype=torch.float64)
    row = torch.tensor([row for row, scene in enumerate(scenes) for _ in scene.masks])
    annotations = AnnotationTable(
        identity=torch.arange(1, len(masks) + 1),
        row=row,
        category_id=torch.tensor([kind + 1 for scene in scenes for kind in scene.kinds]),
        box=torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1),
        area=torch.tensor([mask.sum() for mask in masks], dtype=torch.float64),
        crowd=torch.zeros(len(masks), dtype=torch.bool),
    )
    images = ImageTable(
        identity=torch.arange(1, count + 1),
        file_name=tuple(f"{row + 1:06d}.png" for row in range(count)),
        size=torch.full((count, 2), size),
    )
    pixels = tuple(torch.from_numpy(scene.image).permute(2, 0, 1).contiguous() for scene in scenes)
    return CocoSet(MemoryImages(pixels), images, annotations, dict(enumerate(CLASS_NAMES, start=1)))


def _scene(size: int, random: np.random.Generator) -> _Scene:
    image, colour = _ground(size, random)
    placed: list[_Shape] = []
    for _ in range(int(random.integers(1, _MOST_SHAPES + 1))):
        shape = _place(size, placed, random)
        if shape is not None:
            placed.append(shape)
    owner = np.full((size, size), -1)
    for index, shape in enumerate(placed):
        owner[shape.mask] = index
        image[shape.mask] = _fill(size, colour, random)[shape.mask]
    image = _blurred(image, random.uniform(0, 1))
    image += random.normal(0, random.uniform(3, 10), image.shape)
    return _Scene(
        image=image.clip(0, 255).round().astype(np.uint8),
        kinds=tuple(shape.kind for shape in placed),
        masks=tuple(owner == index for index in range(len(placed))),
    )


def _ground(size: int, random: np.random.Generator) -> tuple[_Pixels, _Pixels]:
    """Return a ground of soft spots and stripes, and its middle colour."""
    colour = random.uniform(30, 225, 3)
    image = colour + _spots(size, random.uniform(-40, 40, (6, 6, 3)))
    angle, wave, phase = random.uniform(0, math.pi), random.uniform(4, 16), random.uniform(0, 6.3)
    y, x = np.mgrid[:size, :size]
    along = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / wave) + phase
    return image + np.sin(along)[..., None] * random.uniform(-15, 15, 3), colour


def _spots(size: int, grid: _Pixels) -> _Pixels:
    """Enlarge a coarse grid to an image, linearly in both directions."""
    for axis in (0, 1):
        place = np.linspace(0, grid.shape[axis] - 1, size)
        low = np.minimum(place.astype(np.intp), grid.shape[axis] - 2)
        share = (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        grid = grid.take(low, axis) * (1 - share) + grid.take(low + 1, axis) * share
    return grid


def _place(size: int, placed: list[_Shape], random: np.random.Generator) -> _Shape | None:
    """Return a shape that covers none of the others too far; None if there is no room."""
    y, x = np.mgrid[:size, :size] + 0.5
    for _ in range(_TRIES):
        kind = int(random.integers(len(CLASS_NAMES)))
        radius = size * random.uniform(_SMALLEST, _LARGEST) / 2
        centre_x, centre_y = random.uniform(radius, size - radius, 2)
        angle = random.uniform(0, 2 * math.pi)
        across, down = (x - centre_x) / radius, (y - centre_y) / radius
        mask = _inside(
            CLASS_NAMES[kind],
            across * math.cos(angle) + down * math.sin(angle),
            down * math.cos(angle) - across * math.sin(angle),
        )
        shape = _Shape(kind, mask, _tight_box(mask))
        if all(_covered(shape.box, other.box) <= _MOST_COVERED for other in placed):
            return shape
    return None


def _inside(name: str, x: _Pixels, y: _Pixels) -> _Mask:
    """Tell which points lie in a shape whose circumscribed circle is the unit circle."""
    if name == "circle":
        return x**2 + y**2 <= 1
    if name == "square":
        return np.maximum(abs(x), abs(y)) <= math.sqrt(0.5)
    if name == "cross":
        longer, shorter = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
        return (longer <= 0.95) & (shorter <= 0.3)
    if name == "triangle":
        return _beyond_sides(3, 0.5, x, y) == 0
    # A pentagram is what at most one of the five lines through its edges cuts off.
    return _beyond_sides(5, math.cos(2 * math.pi / 5), x, y) <= 1


def _beyond_sides(count: int, distance: float, x: _Pixels, y: _Pixels) -> NDArray[np.int64]:
    """Count at each point how many of some lines, evenly turned about the origin, it is beyond."""
    turns = [2 * math.pi * side / count for side in range(count)]
    return sum(
        ((x * math.cos(turn) + y * math.sin(turn) > distance).astype(np.int64) for turn in turns),
        start=np.zeros(x.shape, dtype=np.int64),
    )


def _fill(size: int, ground: _Pixels, random: np.random.Generator) -> _Pixels:
    """Return a colour that stands out from the ground's, slightly spotted, everywhere."""
    colour = random.uniform(0, 255, 3)
    while abs(colour - ground).max() < _CONTRAST:
        colour = random.uniform(0, 255, 3)
    return colour + _spots(size, random.uniform(-20, 20, (4, 4, 3)))


def _blurred(image: _Pixels, strength: float) -> _Pixels:
    """Blend an image with its average over 3 x 3 pixels, the middle ones weighing more."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (padded[:height] + 2 * padded[1:-1] + padded[2:]) / 4
    soft = (rows[:, :width] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
    return image + strength * (soft - image)


def _tight_box(mask: _Mask) -> tuple[int, int, int, int]:
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _covered(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Return the share of the smaller box that both cover."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((one[2] - one[0]) * (one[3] - one[1]) for one in (box, other))
    return max(0, width) * max(0, height) / smaller
