"""Tar headers: read as Python's tarfile reads them, and taken on trust in nothing."""

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.data.streams import CLASSES, SMALL, add, encoded, write_tar

from rlkd.data.datasets import webdataset
from rlkd.data.sources.tar_headers import Member, members
from rlkd.errors import UserError
from rlkd.regular_files import open_regular

END = bytes(1024)
IMAGE = encoded(1)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    """A header that declares any size, below zero and above what octal digits hold too."""
    made = bytearray(512)
    made[: len(name)] = name
    octal = b"%011o\0" % size if 0 <= size < 8**11 else b""
    made[124:136] = octal or (b"\x80" if size > 0 else b"\xff") + (size % 2**88).to_bytes(11, "big")
    made[156:157], made[257:265] = kind, b"ustar\00000"
    made[148:156] = b"%06o\0 " % (sum(made) + 256)
    return bytes(made)


def extended(*records: bytes) -> bytes:
    content = b"".join(records)
    return header(b"further", len(content), b"x") + padded(content)


GOOD = header(b"0.png", len(IMAGE)) + padded(IMAGE) + header(b"0.cls", 1) + padded(b"1")
WHOLE = "it does not close with an end mark"
CLAIMS = "it declares 12,884,901,888 bytes where [0-9,]+ are"
HUGE = 12 * 2**30
HOSTILE: dict[str, tuple[bytes, str]] = {
    "an image": (GOOD + header(b"1.png", HUGE) + padded(IMAGE), CLAIMS),
    "a label": (GOOD + header(b"0.cls", HUGE) + padded(b"1"), CLAIMS),
    "a number of 80 bits": (GOOD + header(b"0.cls", 2**80), r"it declares 1,208,[0-9,]+ bytes"),
    "backwards": (GOOD + header(b"1.png", -512), WHOLE),
    "back to the start": (GOOD + header(b"1.png", -len(GOOD) - 512), WHOLE),
    "a long name": (header(b"long", HUGE, b"L") + padded(b"x") + GOOD, CLAIMS),
    "a long name backwards": (header(b"long", -600, b"L") + GOOD, WHOLE),
    "a long name that is there": (
        header(b"long", 2**21, b"L") + bytes(2**21) + GOOD,
        "a header of it has 2,097,152 bytes, above 1,048,576",
    ),
    "a size of pax": (extended(b"20 size=12884901888\n") + GOOD, CLAIMS),
    "a size of pax below zero": (
        extended(b"14 size=-5000\n") + GOOD,
        r"a header of it has b.-5000. for a",
    ),
    "digits of pax": (extended(b"1" * 10**6) + GOOD, "a header of it has b.1{20}. for a"),
    "records without length": (extended(b"0 a=b\n" * 9) + GOOD, "a header of it is damaged"),
    "records beyond the end": (extended(b"99 a=b\n") + GOOD, "a header of it is damaged"),
    "holes": (header(b"1.png", 0, b"S") + GOOD, "it stores a file with holes"),
    "holes of pax": (extended(b"22 GNU.sparse.major=1\n") + GOOD, "it stores a file with holes"),
    "names of names": (3000 * (header(b"long", 1, b"L") + padded(b"x")), WHOLE),
    "nothing": (b"", WHOLE),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_not_there_is_refused_by_the_shards_name(tmp_path: Path, what: str) -> None:
    content, told = HOSTILE[what]
    end = b"" if what in ("nothing", "names of names") else END
    (tmp_path / "val.tar").write_bytes(GOOD + END)
    (tmp_path / "train.tar").write_bytes(content + end)
    with pytest.raises(UserError, match=rf"train\.tar is no .* cut short \({told}") as error:
        webdataset(root=tmp_path, class_names=list(CLASSES), **SMALL)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_tar_of_its_end_mark_alone_has_no_images(tmp_path: Path, split: str) -> None:
    for each in ("train", "val"):
        (tmp_path / f"{each}.tar").write_bytes((b"" if each == split else GOOD) + END)
    key = "train" if split == "train" else "test"
    with pytest.raises(UserError, match=rf"what data\.{key} names has no images"):
        webdataset(root=tmp_path, class_names=list(CLASSES), **SMALL)


def test_an_empty_shard_among_others_is_none(tmp_path: Path) -> None:
    (write_tar(tmp_path) / "train-4.tar").write_bytes(END)
    assert len(webdataset(root=tmp_path, class_names=3, **SMALL).train) == 24


@pytest.mark.parametrize(
    ("suffix", "label", "told"),
    [
        ("cls", b"1" * 9000, r"0 has the label 1{80}\.\.\., not a class or its number, 0 to 2"),
        ("cls", b"a\nb\xc2\x9b", r"0 has the label 'a\\nb\\x9b', not a class"),
        ("cls", b"\xff\xfe", "0 has no label"),
        ("json", b"[" * 200_000, "0 has no label"),
        ("json", b'{"label": ' + b"[" * 900 + b"]" * 900 + b"}", "0 has no label"),
        ("json", b'{"label": ' + b"1" * 9000 + b"}", "0 has no label"),
        ("json", b'{"label": NaN}', "0 has no label: fix the shard"),
        ("json", b'{"label": 1e400}', "0 has the label inf, not a class"),
    ],
)
def test_labels_without_end_are_told_in_a_line(
    tmp_path: Path, suffix: str, label: bytes, told: str
) -> None:
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            add(tar, "0.png", IMAGE)
            add(tar, f"0.{suffix}", label)
    with pytest.raises(UserError, match=rf"train\.tar: {told}") as error:
        webdataset(root=tmp_path, class_names=3, **SMALL)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["cls", "json"])
def test_a_label_of_many_bytes_is_not_read(tmp_path: Path, suffix: str) -> None:
    size = 2**20 + 1
    for split in ("train", "val"):
        with (tmp_path / f"{split}.tar").open("wb") as tar:  # the label is a hole in the file
            tar.write(header(b"0.png", len(IMAGE)) + padded(IMAGE))
            tar.write(header(f"0.{suffix}".encode(), size))
            tar.seek(size + -size % 512, os.SEEK_CUR)
            tar.write(END)
    told = rf"train\.tar: 0\.{suffix} has 1,048,577 bytes, above the 1,048,576 of a label: fix"
    with pytest.raises(UserError, match=told):
        webdataset(root=tmp_path, class_names=3, **SMALL)


def infos() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Members of every kind: names of every length and alphabet, links, folders, large owners."""
    for length in (1, 40, 48, 80, 90, 99, 100, 101, 155, 156, 255, 256, 400):
        for letter in ("a", "ü"):
            yield tarfile.TarInfo(f"{length}{letter * length}/{letter * length}.png"), IMAGE
    for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, b"9"):
        member = tarfile.TarInfo("long/" * 60 + "b.png")
        member.type, member.linkname = kind, "a" * 300
        yield member, b""
    member = tarfile.TarInfo("owned.png")
    member.uid, member.mtime, member.uname = 2**40, 1.5, "nobody" * 9
    yield member, b""
    yield tarfile.TarInfo("last.png"), b"x" * 512


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_mean_what_they_mean_to_pythons_tarfile(tmp_path: Path, form: int) -> None:
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w", format=form, pax_headers={"comment": "of all"}) as tar:
        for member, content in infos():
            member.size = len(content)
            try:
                tar.addfile(member, io.BytesIO(content))
            except ValueError:  # ustar has no room for it
                assert form == tarfile.USTAR_FORMAT
    with tarfile.open(file) as tar:
        expected = [
            Member(each.name, each.offset_data, each.size)
            for each in tar
            if each.type == tarfile.REGTYPE
        ]
    assert len(expected) >= (8 if form == tarfile.USTAR_FORMAT else 24)
    with open_regular(file) as opened:
        assert list(members(opened)) == expected
