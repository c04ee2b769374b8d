"""What becomes of data files that are made to do harm: programs, bombs, and files without end.

Each is made in a temporary folder and read by a process of its own, which may take 2 GiB more than
it has when it begins and 10 seconds of the processor, and is ended after a minute. PostScript is
run by Ghostscript where that is installed, or else by a stand-in that writes one file.

    python benchmarks/hostile_files.py
"""

import multiprocessing
import os
import resource
import shutil
import signal
import struct
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rlkd.data.datasets import parquet, webdataset
from rlkd.data.detection.coco import read_coco
from rlkd.data.sources.shards import given_names
from rlkd.errors import UserError
from rlkd.tasks.prediction_folder import batches

LIMIT_S, WAIT_S = 10, 60
LIMIT_BYTES = 2 * 2**30
SMALL: dict[str, Any] = {"image_size": 8, "resize": 9, "workers": 0, "class_names": 3}


def image(form: str = "PNG", side: int = 16, **options: Any) -> bytes:
    """Return the content of an image file of one colour."""
    content = BytesIO()
    Image.new("RGB", (side, side), (9, 99, 200)).save(content, form, **options)
    return content.getvalue()


def postscript(folder: Path) -> bytes:
    """Return a script that writes a file."""
    script = f"({folder}/written) (w) file dup (by an image) writestring closefile"
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{script}\n".encode()


def endless_script(_: Path) -> bytes:
    """Return a script that never ends."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"


def huge_jpeg(_: Path) -> bytes:
    """Return a small file whose header declares 65,500 x 65,500 pixels."""
    content = image("JPEG")
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", 65_500, 65_500) + content[at + 4 :]


def many_scans(_: Path) -> bytes:
    """Return 2,000 x 2,000 pixels that are gone over 20,000 times."""
    content = image("JPEG", 2000, progressive=True)
    return content[:-2] + 20_000 * content[content.rindex(b"\xff\xda\0") : -2] + content[-2:]


def picture(make: Callable[[Path], bytes], folder: Path) -> None:
    """Read an image as prediction does."""
    file = folder / "a.png"
    file.write_bytes(make(folder))
    list(batches([file], 1, skip_unreadable=False))


def not_regular(make: Callable[[Path], None], folder: Path) -> None:
    """Read what is called an image and is no regular file."""
    make(folder / "a.png")
    list(batches([folder / "a.png"], 1, skip_unreadable=False))


def holes(path: Path) -> None:
    """Make a file of 4 TiB that takes no room."""
    with path.open("wb") as file:
        file.truncate(2**42)


def tar(size: int | None, folder: Path) -> None:
    """Read shards of which one declares a label of that size, or None for an end mark alone."""
    for split in ("train", "val"):
        with tarfile.open(folder / f"{split}.tar", "w") as opened:
            for name, content in {"0.png": image(), "0.cls": b"1"}.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                if size is not None or split == "val":
                    opened.addfile(member, BytesIO(content))
            if size is not None and split == "train":
                member = tarfile.TarInfo("0.cls")
                member.size = size
                opened.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))  # pyright: ignore
                opened.offset += tarfile.BLOCKSIZE
    webdataset(root=folder, **SMALL)


def repeated(rows: int, content: bytes, folder: Path) -> None:
    """Read Parquet shards in which one image and one label stand for many rows."""
    for split in ("train", "test"):
        column = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), pa.array([content]))
        label = pa.array(np.zeros(rows, np.int8))
        table = pa.table({"image": column, "label": label})
        pq.write_table(table, folder / f"{split}.parquet", store_schema=False)
    parquet(root=folder, **SMALL).train.read(0)  # pyright: ignore


def fifo_shard(folder: Path) -> None:
    """Read a shard that is a FIFO."""
    for split in ("train", "test"):
        os.mkfifo(folder / f"{split}.parquet")
    parquet(root=folder, **SMALL)


def annotations(make: Callable[[Path], None], folder: Path) -> None:
    """Read annotations that are no regular file."""
    make(folder / "a.json")
    read_coco(folder, folder / "a.json")


def classes(_: Path) -> None:
    """Name as many classes as nobody has."""
    given_names(99_999_999)


def link(path: Path) -> None:
    """Make a link to a device that never ends."""
    path.symlink_to("/dev/zero")


CASES: dict[str, Callable[[Path], None]] = {
    "PostScript, a.png": partial(picture, postscript),
    "PostScript without end, a.png": partial(picture, endless_script),
    "JPEG of 65,500 x 65,500": partial(picture, huge_jpeg),
    "JPEG of 20,000 scans": partial(picture, many_scans),
    "FIFO, a.png": partial(not_regular, os.mkfifo),
    "link to /dev/zero, a.png": partial(not_regular, link),
    "4 TiB of holes, a.png": partial(not_regular, holes),
    "tar: a label of 12 GiB": partial(tar, 12 * 2**30),
    "tar: a label of 2^80 bytes": partial(tar, 2**80),
    "tar: end mark alone": partial(tar, None),
    "Parquet: a FIFO": fifo_shard,
    "Parquet: an image of 1 MB in 10,000 rows": partial(repeated, 10_000, bytes(10**6)),
    "Parquet: 30 million rows": partial(repeated, 30_000_000, b"a"),
    "COCO: a FIFO": partial(annotations, os.mkfifo),
    "COCO: a link to /dev/zero": partial(annotations, link),
    "data.class_names=99999999": classes,
}


def one(name: str, folder: Path) -> None:
    """Read one file in this process, and leave what became of it in the folder."""
    os.setpgid(0, 0)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
    try:
        CASES[name](folder)
        told = "read"
    except UserError as error:
        told = f"refused: {str(error).replace(f'{folder}/', '')[:120]}"
    except Exception as error:  # what a user would see as a traceback
        told = f"traceback: {type(error).__name__} {error}"[:120]
    (folder / "told").write_text(told)


def main() -> None:
    """Read every file, and print a table."""
    real = shutil.which("gs")
    print(
        f"| file | what became of it (Ghostscript: {'real' if real else 'a stand-in'}) |\n|---|---|"
    )
    for name in CASES:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            if real is None:
                stand_in = folder / "bin" / "gs"
                stand_in.parent.mkdir()
                endless = "while :; do :; done" if "without end" in name else ""
                stand_in.write_text(f"#!/bin/sh\ntouch {folder}/written\n{endless}\n")
                stand_in.chmod(0o755)
                os.environ["PATH"] = f"{stand_in.parent}:{os.environ['PATH']}"
            reader = multiprocessing.get_context("fork").Process(target=one, args=(name, folder))
            reader.start()
            reader.join(WAIT_S)
            left = folder / "told"
            told = left.read_text() if left.exists() else "no end"
            if reader.pid is not None:
                with suppress(ProcessLookupError):
                    os.killpg(reader.pid, signal.SIGKILL)
            reader.join()
            ran = "; A PROGRAM WROTE A FILE" if (folder / "written").exists() else ""
            print(f"| {name} | {told}{ran} |", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
