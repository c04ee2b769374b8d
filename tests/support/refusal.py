"""What tests of bad input share."""

import re
from collections.abc import Callable
from pathlib import Path

from PIL import Image

Refuse = Callable[..., str]
"""Run a command that must fail; return its one line, having seen that nothing was touched."""


def assert_told(line: str, pattern: str) -> None:
    assert re.search(pattern, line), line


def pictures(folder: Path) -> Path:
    """Two classes of two images each, to train and to test on."""
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / "pictures" / split / name).mkdir(parents=True)
            for number in range(2):
                image = Image.new("RGB", (8, 8), (40 * number, 0, 200))
                image.save(folder / "pictures" / split / name / f"{number}.png")
    return folder / "pictures"
