"""The kinds of inputs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import checkpoints, coco, command_line, folders, images, numbers, shards
from .verdict import Make


@dataclass(frozen=True)
class Kind:
    """A kind of inputs."""

    prepare: Callable[[Path], None]
    """Makes what the inputs are made of, in a folder that is then only read."""
    make: Make


KINDS = {
    "commands": Kind(command_line.prepare, command_line.make),
    "checkpoints": Kind(checkpoints.prepare, checkpoints.make),
    "images": Kind(images.prepare, images.make),
    "parquet": Kind(shards.prepare, shards.make_parquet),
    "tar": Kind(shards.prepare, shards.make_tar),
    "coco": Kind(coco.prepare, coco.make),
    "folders": Kind(folders.prepare, folders.make),
    "numbers": Kind(numbers.prepare, numbers.make),
}
