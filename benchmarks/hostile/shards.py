"""Kinds `parquet` and `tar`: shards with spoilt bytes, columns, headers and labels."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from rlkd.data.dataset import Dataset
from rlkd.data.datasets import parquet, webdataset

from . import images
from .command import check_result, command
from .command_line import SMALL
from .values import spoilt_bytes
from .verdict import Case, FailedError, Place

OPTIONS: dict[str, Any] = {"image_size": 8, "resize": 9, "workers": 0}
WORDS = ["data.image_size=8", "data.resize=9", "data.workers=0", "trainer.batch_size=4", "output=o"]
_SMALL = [each for each in SMALL if not each.startswith(("data", "probe"))]


class Sound(Random):
    """Draws what is in order: the first of each choice, and no rare event."""

    def choice(self, seq: Any) -> Any:
        """Return the first."""
        return seq[0]

    def random(self) -> float:
        """Return a number that is seldom drawn."""
        return 0.99


def prepare(shared: Path) -> None:
    """Write images of each format, to put in shards."""
    images.prepare(shared)


def _encoded(draw: Random, place: Place) -> bytes:
    if draw.random() < 0.1:
        return images.content(draw, place)[1]
    written = io.BytesIO()
    Image.new("RGB", (9, 8), (draw.randrange(256), 7, 200)).save(written, "png")
    return written.getvalue()


def _labels(draw: Random, rows: int) -> Any:
    good = [number % 3 for number in range(rows)]
    return draw.choice(
        (
            *([good] * 6),
            [-1] * rows,
            [0] * rows,
            [*good[:-1], 3],
            [*good[:-1], 2**62],
            [*good[:-1], -(2**63)],
            [*good[:-1], None],
            [None] * rows,
            [float(each) for each in good],
            [float("nan"), *map(float, good[1:])],
            [str(each) for each in good],
            [[each] for each in good],
            pa.array(good, pa.uint64()),
            pa.array(good, pa.int8()),
            pa.array([2**64 - 1, *good[1:]], pa.uint64()),
            pa.array([each > 0 for each in good], pa.bool_()),
            pa.array(good, pa.int64()).dictionary_encode(),
            pa.array([[each] * 2000 for each in good]),
        )
    )


def _named(draw: Random) -> Any:
    deep: Any = 0
    for _ in range(3000):
        deep = [deep]
    return draw.choice(
        (
            *([["a", "b", "c"]] * 5),
            None,
            [],
            ["a"],
            ["a", "a", "a"],
            ["a", 5, None],
            {"0": "a", "1": "b", "2": "c"},
            {"x": "a"},
            {"0": "a", "00": "b", "9" * 5000: "c"},
            5,
            "abc",
            ["<script>", "[/b]", "\x1b[2J"],
            ["a" * 100000, "b", "c"],
            ["\ud800", "b", "c"],
            [f"c{number}" for number in range(50_000)],
        )
    )


def _write_parquet(draw: Random, place: Place, file: Path, rows: int) -> None:
    encoded = [_encoded(draw, place) for _ in range(rows)]
    held: Any = draw.choice(
        (
            *([[{"bytes": each, "path": None} for each in encoded]] * 6),
            encoded,
            [None] * rows,
            [{"bytes": None, "path": "/etc/hostname"} for _ in encoded],
            [{"path": "x"} for _ in encoded],
            [{"bytes": "text"} for _ in encoded],
            [list(each[:20]) for each in encoded],
            [b""] * rows,
            list(range(rows)),
        )
    )
    names = [
        draw.choice((*["image"] * 9, "img", "x", "")),
        draw.choice((*["label"] * 9, "fine_label", "label ")),
    ]
    table = pa.table([pa.array(held), _labels(draw, rows)], names=names)
    if draw.random() < 0.15:
        table = table.append_column(draw.choice(names), table.column(1))
    told: Any = json.dumps({"info": {"features": {"label": {"names": _named(draw)}}}})
    if draw.random() < 0.15:
        told = draw.choice(
            (
                "{",
                "[]",
                "[" * 20000,
                "9" * 5000,
                "null",
                '{"info": 5}',
                b"\xff\xfe",
                '{"info": {"features": []}}',
            )
        )
    table = table.replace_schema_metadata({"huggingface": told})
    pq.write_table(
        table,
        file,
        row_group_size=draw.choice((1, 3, 100)),
        compression=draw.choice(("none", "snappy", "zstd", "gzip")),
    )


def make_parquet(draw: Random, place: Place) -> Case:
    """Draw shards, and whether they are read or trained on."""
    root = place.given / "root"
    root.mkdir()
    for split in ("train", "test"):
        file = root / f"{split}-0.parquet"
        plain, rows = draw.random() < 0.5, draw.choice((12, 12, 12, 1, 0))
        try:
            _write_parquet(Sound() if plain else draw, place, file, 12 if plain else rows)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):  # which it cannot hold
            _write_parquet(Sound(), place, file, 12)
    words = "built"
    if draw.random() < 0.6:
        file = draw.choice(sorted(root.iterdir()))
        words = f"{file.name} spoilt"
        if draw.random() < 0.1:
            words = f"{file.name} is {(what := draw.choice(images.SPECIAL))}"
            file.unlink()
            images.special(file, what)
        else:
            content = file.read_bytes()
            footer = max(len(content) - 1500, 0) if draw.random() < 0.5 else 0
            file.write_bytes(content[:footer] + spoilt_bytes(draw, content[footer:]))
    given, options = _further(
        draw, place, ("class_names", "image_column", "label_column", "groups_at_once")
    )
    return _case(
        draw,
        f"{words} {given}",
        lambda: parquet(root=root, **options, **OPTIONS),
        ["data=parquet", f"data.root={root}", *given],
    )


def _further(draw: Random, place: Place, keys: tuple[str, ...]) -> tuple[list[str], dict[str, Any]]:
    """Return settings as words and as what they are read as; more often none."""
    if draw.random() < 0.8:
        return [], {}
    key = draw.choice(keys)
    given: Any = draw.choice(
        (
            -1,
            0,
            3,
            5,
            99999999,
            2**63,
            "nothing",
            "",
            "label",
            str(place.given / "names"),
            "imagenet",
        )
    )
    if key == "groups_at_once" and not isinstance(given, int):
        given = draw.choice((0, -5, 2**40))
    if key == "class_names":
        names = draw.choice(
            (b"a\nb\nc\n", b"\xff\n", b"", b"a\na\na\n", b"a\n" * 300000, b"\0\n\1\n\2\n")
        )
        (place.given / "names").write_bytes(names)
    return [f"data.{key}={given}"], {key: given}


def _case(draw: Random, words: str, made: Callable[[], Dataset], given: list[str]) -> Case:
    if draw.random() < 0.7:
        return Case(f"read: {words}", lambda: _read(made()))
    skip = draw.choice(([], ["data.unreadable=skip"]))

    def act() -> str:
        command(["train", *_SMALL, *given, *WORDS, *skip, "probe.size=0"])
        return check_result(Path("o"))

    return Case(f"train: {words}", act)


def _read(held: Dataset) -> str:
    """Read every image, as the loaders do, and check targets."""
    told: list[str] = []
    for images_of in (held.train, held.test):
        target, names = images_of.target, images_of.class_names
        if len(target) and not (int(target.min()) >= 0 and int(target.max()) < len(names)):
            raise FailedError("nonsense", f"targets {target.aminmax()} of {len(names)}", "targets")
        for row in range(min(len(target), 20)):
            image = images_of.read(row)
            if image.dim() != 3 or not image.numel():
                raise FailedError("nonsense", f"pixels {tuple(image.shape)}", "pixels' shape")
        told.append(f"{len(target)} images of {len(names)} classes")
    return ", ".join(told)


def _member(name: str, content: bytes, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    told = tarfile.TarInfo(name)
    told.size = len(content)
    for key, each in more.items():
        setattr(told, key, each)
    return told, content


def _write_tar(draw: Random, place: Place, file: Path) -> str:
    kinds = draw.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    spoilt = "in order"
    with tarfile.open(file, "w", format=kinds) as opened:
        at = draw.randrange(12) if draw.random() < 0.6 else -1
        for number in range(12):
            members = [_member(f"{number:03}.png", _encoded(draw, place))]
            as_json = draw.random() < 0.3
            label = (
                json.dumps({"label": number % 3}).encode() if as_json else str(number % 3).encode()
            )
            members.append(_member(f"{number:03}.{'json' if as_json else 'cls'}", label))
            if number == at:
                spoilt = _spoil_members(draw, members, number)
            for told, content in members:
                told.size = len(content)
                opened.addfile(told, io.BytesIO(content))
    return spoilt


def _spoil_members(draw: Random, members: list[tuple[tarfile.TarInfo, bytes]], number: int) -> str:
    what = draw.choice(
        ("label", "label", "label", "type", "name", "missing", "twice", "pax", "big")
    )
    key = f"{number:03}"
    if what == "label":
        deep = b"[" * 30000
        given = draw.choice(
            (
                b"",
                b"-1",
                b"3",
                b"\xff",
                b"1.0",
                b"nan",
                b"9" * 6000,
                "٣".encode(),
                "²".encode(),
                b"a",
                b" 1 ",
                deep,
                b"\0",
                b'{"label": ' + deep,
                b'{"label": ' + b"9" * 6000 + b"}",
                b'{"label": null}',
                b'{"label": true}',
                b'{"label": [1]}',
                b'{"label": NaN}',
                b'{"label": {"a": 1}}',
                b"[]",
                b"5",
                b'"label"',
                b'{"label": -0}',
                b'{"label": 1e400}',
                b'{"label": "' + b"x" * 10**6 + b'"}',
            )
        )
        members[1] = _member(f"{key}.{draw.choice(('cls', 'json'))}", given)
        return f"label {given[:30]!r}"
    if what == "type":
        kind = draw.choice(
            (
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.FIFOTYPE,
                tarfile.CHRTYPE,
                tarfile.DIRTYPE,
                tarfile.GNUTYPE_SPARSE,
                b"?",
            )
        )
        members[0] = _member(
            members[0][0].name,
            b"",
            type=kind,
            linkname=draw.choice(("/etc/hostname", "../x", members[1][0].name, "")),
        )
        return f"type {kind!r}"
    if what == "name":
        name = draw.choice(
            (
                "../../x.png",
                "/abs/x.png",
                "a/b/../c.png",
                ".png",
                "x",
                "x.",
                "a\nb.png",
                "ü.png",
                "\x1b[2J.png",
                "d" * 300 + ".png",
                "a/.hidden.png",
                "",
                "x.PNG",
            )
        )
        members[0] = _member(name, members[0][1])
        return f"name {name[:20]!r}"
    if what == "missing":
        del members[draw.randrange(2)]
    elif what == "twice":
        members.append(members[draw.randrange(2)])
    elif what == "pax":
        members[0][0].pax_headers = draw.choice(
            (
                {"size": "99999999999"},
                {"size": "x"},
                {"path": "\0"},
                {"GNU.sparse.map": "0,1"},
                {"mtime": "nan"},
            )
        )
    else:
        members[1] = _member(f"{key}.cls", b"1" + b" " * 3_000_000)
    return what


def make_tar(draw: Random, place: Place) -> Case:
    """Draw tar shards, and whether they are read or trained on."""
    root = place.given / "root"
    root.mkdir()
    words: list[str] = []
    for each in ("train", "val"):
        file = root / f"{each}-0.tar"
        try:
            words.append(_write_tar(draw if draw.random() < 0.6 else Sound(), place, file))
        except ValueError:  # a name that the format cannot hold
            words.append(_write_tar(Sound(), place, file))
    if draw.random() < 0.5:
        file = draw.choice(sorted(root.iterdir()))
        what = draw.choice(("bytes", "bytes", "header", "end alone", "cut", "size", "special"))
        words.append(f"{file.name} {what}")
        content = file.read_bytes()
        if what == "bytes":
            content = spoilt_bytes(draw, content)
        elif what == "header":
            block = 512 * draw.randrange(len(content) // 512)
            content = (
                content[:block]
                + _spoilt_header(draw, content[block : block + 512])
                + content[block + 512 :]
            )
        elif what == "end alone":
            content = b"\0" * draw.choice((0, 512, 1024, 10240))
        elif what == "cut":
            content = content[: 512 * draw.randrange(len(content) // 512)]
        elif what == "size":
            content = _resized(draw, content)
        file.write_bytes(content)
        if what == "special":
            file.unlink()
            images.special(file, draw.choice(images.SPECIAL))
    given, options = _further(
        draw, place, ("class_names", "class_names", "label_key", "groups_at_once")
    )
    options = {"class_names": 3} | options
    named = [] if any("class_names" in each for each in given) else ["data.class_names=3"]
    return _case(
        draw,
        f"{'; '.join(words)} {given}",
        lambda: webdataset(root=root, **options, **OPTIONS),
        ["data=webdataset", f"data.root={root}", *named, *given],
    )


def _spoilt_header(draw: Random, header: bytes) -> bytes:
    """Return a tar header with a field changed, its checksum right again."""
    first, size = draw.choice(
        ((124, 12), (136, 12), (156, 1), (257, 8), (345, 155), (0, 100), (329, 8))
    )
    field = draw.choice(
        (
            b"\xff" * size,
            b"\x80" + b"\xff" * (size - 1),
            b"7" * size,
            b"-1".ljust(size, b"\0"),
            b"\0" * size,
            draw.randbytes(size),
        )
    )
    changed = bytearray(header[:first] + field[:size] + header[first + size :])
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % (sum(changed) & 0o777777)
    return bytes(changed)


def _resized(draw: Random, content: bytes) -> bytes:
    """Return a tar file whose first member claims to be of another size than it is."""
    size = draw.choice(
        (
            b"77777777777\0",
            b"00000777777\0",
            b"\x80" + b"\0" * 7 + b"\x7f\xff\xff\xff",
            b"\xff" * 12,
        )
    )
    changed = bytearray(content)
    changed[124:136] = size
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % (sum(changed[:512]) & 0o777777)
    return bytes(changed)
