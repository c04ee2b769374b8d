"""The teacher runs once: what was computed first is what every later step, run and process sees."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from rlkd.data import ImageSet, MemoryLoader
from rlkd.errors import Notice, UserError
from rlkd.exploration.mixup import mix
from rlkd.teacher_cache.records import CHECKS, LOGITS
from rlkd.teacher_cache.store import IDENTITY, IMAGES, Store, remove
from rlkd.teacher_cache.stored import StoredTeacher, stored_teacher
from rlkd.types import Batch

CLASSES = 4
IDENTITY_OF: dict[str, Any] = {
    "teacher's weights": "a" * 64,
    "precision": "32-true",
    "cache_dtype": "float16",
    "augmentation": "crops",
    "views": 18,
    "classes": CLASSES,
}


class Counting:
    """A teacher whose answers differ a little with the batch, as on some processors."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale, self.images, self.calls = scale, 0, 0
        generator = torch.Generator().manual_seed(5)
        self.weight = torch.randn(3 * 36, CLASSES, generator=generator) / 10

    def exact(self, image: Tensor) -> Tensor:
        return self.scale * image.flatten(1) @ self.weight

    def __call__(self, image: Tensor) -> Tensor:
        self.calls += 1
        self.images += len(image.unique(dim=0))  # of a full batch: some are there again
        return self.exact(image) * (1 + 2e-3 * (self.calls % 3))


@pytest.fixture
def images() -> ImageSet:
    return made_images()


def made_images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (23, 3, 6, 6), dtype=torch.uint8, generator=generator)
    return ImageSet(pixels, torch.arange(23) % 3, ("a", "b", "c"))


def loader_of(images: ImageSet, seed: int = 0) -> MemoryLoader:
    return MemoryLoader(
        images,
        batch_size=6,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        shuffle=True,
        seed=seed,
        crop_padding=1,
        flip=True,
    )


def opened(
    folder: Path,
    images: ImageSet,
    live: Any,
    *,
    of: ImageSet | None = None,
    seed: int = 0,
    **identity: Any,
) -> StoredTeacher:
    return stored_teacher(
        folder,
        {**IDENTITY_OF, **identity},
        (images if of is None else of).digests(),
        images.digests(),
        live,
        loader_of(images, seed),
        Console(quiet=True),
    )


def epoch(stored: StoredTeacher, number: int = 0) -> list[Tensor]:
    loader = stored.loader
    loader.set_epoch(number)
    return [stored(batch) for batch in loader]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_second_time_nothing_is_computed_and_every_bit_is_the_same(
    tmp_path: Path, images: ImageSet
) -> None:
    first, second = Counting(), Counting()
    cold = epoch(opened(tmp_path / "store", images, first))
    assert first.images == 23
    again = opened(tmp_path / "store", images, second)
    assert same(cold, epoch(again))
    assert second.images == 0
    for given, batch in zip(cold, loader_of(images), strict=True):
        torch.testing.assert_close(given, first.exact(batch.image), rtol=6e-3, atol=1e-3)
        assert torch.equal(given, given.half().float())
        assert given.dtype == torch.float32


def test_what_a_stopped_run_has_kept_is_what_a_resumed_one_sees(
    tmp_path: Path, images: ImageSet
) -> None:
    whole = opened(tmp_path / "whole", images, Counting())
    expected = epoch(whole)
    for number, batch in enumerate(whole.loader):
        shutil.copytree(tmp_path / "whole", tmp_path / f"{number}")
        stored = opened(tmp_path / f"{number}", images, Counting())
        assert torch.equal(stored(batch), expected[number])


def test_two_that_compute_the_same_rows_at_once_see_the_same(
    tmp_path: Path, images: ImageSet
) -> None:
    one, other = (opened(tmp_path / "store", images, Counting()) for _ in range(2))
    other.live(torch.zeros(1, 3, 6, 6))  # the next answers differ by rounding
    batch = next(iter(one.loader))
    live, seen = other.live, []

    def overtaken(image: Tensor) -> Tensor:
        computed = live(image)
        seen.append(one(batch))
        return computed

    other.live = overtaken
    assert torch.equal(other(batch), seen[0])


def test_mixed_images_are_computed_every_time_and_alone(tmp_path: Path, images: ImageSet) -> None:
    teacher = Counting()
    stored = opened(tmp_path / "store", images, teacher)
    stored.fill(stored.absent(50), lambda count: None)  # the mixed images' own views too
    plain = next(iter(stored.loader))
    expected = stored(plain)
    chosen = torch.tensor([True, False, False, True, False, False])
    partner = Batch(plain.image.flip(0), plain.target.flip(0), plain.index.flip(0))
    mixed = mix(plain, partner, chosen, weight=0.7, num_classes=3)
    before, held = teacher.images, stored.store.records.count()
    given = stored(mixed)
    assert teacher.images == before + 2
    assert stored.store.records.count() == held
    assert torch.equal(given[~chosen], expected[~chosen])
    torch.testing.assert_close(
        given[chosen], teacher.exact(mixed.image[chosen]), rtol=5e-3, atol=1e-4
    )


def test_rows_held_on_a_device_are_those_of_the_disk(
    tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.tensor([20, 4, 4, 11, 0, 9])
    stored = opened(tmp_path / "store", images.select(rows), Counting(), of=images)
    assert not stored.hold(torch.device("cpu"))  # not all are there
    whole = opened(tmp_path / "store", images, Counting())
    whole.fill(whole.absent(7), lambda count: None)
    expected = epoch(stored, 3)
    mixed = replace(next(iter(stored.loader)), target=torch.rand(6, 3))
    by_disk = stored(mixed)
    assert stored.hold(torch.device("cpu"))
    assert torch.equal(stored(mixed), by_disk)
    monkeypatch.setattr(stored.store.records, "read", None)
    assert same(epoch(stored, 3), expected)


def test_images_are_found_by_what_they_show_wherever_they_lie(
    tmp_path: Path, images: ImageSet
) -> None:
    whole = opened(tmp_path / "store", images, Counting())
    whole.fill(whole.absent(7), lambda count: None)
    teacher, rows = Counting(), torch.tensor([20, 4, 4, 11, 0, 9])
    part = opened(tmp_path / "store", images.select(rows), teacher, of=images)
    (batch,) = part.loader
    given = part(batch)
    assert teacher.images == 0
    assert batch.view is not None
    (moved,) = whole.loader.batches_of([(rows[batch.index], batch.view)])
    assert torch.equal(given, whole(moved))
    smaller = images.select(rows[:1])
    opened(tmp_path / "small", smaller, Counting())
    with pytest.raises(UserError, match="it lacks 22 of 23 here"):
        opened(tmp_path / "small", images, Counting())


def test_filling_computes_each_view_once_and_goes_on_where_it_stopped(
    tmp_path: Path, images: ImageSet
) -> None:
    teacher, heard = Counting(), list[int]()
    stored = opened(tmp_path / "store", images, teacher)
    wanted = stored.absent(10)
    assert sum(len(rows) for rows, _ in wanted) == 23 * 18
    stored.fill(wanted[:3], heard.append)
    rest = stored.absent(10)
    assert sum(heard) == 30
    assert sum(len(rows) for rows, _ in rest) == 23 * 18 - 30
    stored.fill(rest, heard.append)
    assert stored.absent(10) == []
    assert teacher.images == 23 * 18 == sum(heard)
    assert stored.verify("32-true") == 32
    assert epoch(stored, 3)
    assert teacher.images == 23 * 18 + 32


def test_a_store_that_may_not_be_written_is_read(tmp_path: Path, images: ImageSet) -> None:
    cold = epoch(opened(tmp_path / "store", images, Counting()))
    before = (tmp_path / "store" / LOGITS).read_bytes()
    teacher = Counting()
    stored = opened(tmp_path / "store", images, teacher)
    stored.store.records.writable = False
    assert same(cold, epoch(stored))
    assert teacher.images == 0
    later = epoch(stored, 1)
    assert teacher.images
    assert all(torch.equal(each, each.half().float()) for each in later)
    assert (tmp_path / "store" / LOGITS).read_bytes() == before


def test_a_full_disk_stops_keeping_not_training(
    tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = opened(tmp_path / "store", images, Counting())

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(Notice, match="No space left on device; free some space"):
        given = epoch(stored)
    assert len(given) == 4
    assert stored.store.records.count() == 0
    stored.store.records.writable = True
    wanted = stored.absent(5)
    with pytest.raises(UserError, match="No space left"):
        stored.fill(wanted, lambda count: None)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("teacher's weights", "b" * 64),
        ("precision", "bf16-mixed"),
        ("cache_dtype", "float32"),
        ("augmentation", "no crops"),
        ("classes", 5),
    ],
)
def test_a_store_of_something_else_is_refused_by_what_differs(
    tmp_path: Path, images: ImageSet, name: str, other: Any
) -> None:
    opened(tmp_path / "store", images, Counting())
    with pytest.raises(UserError, match=f"is of another {name} .*rlkd cache remove"):
        opened(tmp_path / "store", images, Counting(), **{name: other})


def test_a_teacher_that_computes_something_else_is_found_out(
    tmp_path: Path, images: ImageSet
) -> None:
    epoch(opened(tmp_path / "store", images, Counting()))
    opened(tmp_path / "store", images, Counting()).verify("32-true")
    with pytest.raises(UserError, match="other logits than the teacher computes now"):
        opened(tmp_path / "store", images, Counting(scale=1.1)).verify("32-true")
    assert opened(tmp_path / "new", images, Counting()).verify("32-true") == 0


@pytest.mark.parametrize("name", [LOGITS, CHECKS, IMAGES])
@pytest.mark.parametrize("harm", ["cut", "gone", "longer"])
def test_a_damaged_store_is_refused(tmp_path: Path, images: ImageSet, name: str, harm: str) -> None:
    epoch(opened(tmp_path / "store", images, Counting()))
    path = tmp_path / "store" / name
    if harm == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size + (8 if harm == "longer" else -8))
    with pytest.raises(UserError, match=r"is damaged \(.*remove it with `rlkd cache remove"):
        opened(tmp_path / "store", images, Counting())
    remove(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_flipped_bits_are_computed_again(tmp_path: Path, images: ImageSet) -> None:
    cold = epoch(opened(tmp_path / "store", images, Counting()))
    path = tmp_path / "store" / LOGITS
    content = bytearray(path.read_bytes())
    spoilt = Store.found(tmp_path / "store").records.marked()[::5]
    for row in spoilt:
        content[int(row) * 2 * CLASSES] ^= 64
    path.write_bytes(content)
    teacher = Counting()
    again = epoch(opened(tmp_path / "store", images, teacher))
    assert teacher.images == len(spoilt)
    for one, other in zip(cold, again, strict=True):
        torch.testing.assert_close(one, other, rtol=6e-3, atol=1e-3)


@pytest.mark.parametrize("name", [LOGITS, CHECKS, IMAGES])
def test_files_of_somebody_else_of_the_same_names_are_left_alone(
    tmp_path: Path, images: ImageSet, name: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("dear to me")
    with pytest.raises(UserError, match=f"files that are no store's, such as {name}"):
        opened(tmp_path / "mine", images, Counting())
    assert (tmp_path / "mine" / name).read_text() == "dear to me"


@pytest.mark.parametrize(
    "spoilt", [{"cache_dtype": []}, {"views": "9"}, {"classes": 0}, {"images": 5}]
)
def test_a_store_that_does_not_say_what_it_holds_is_refused(
    tmp_path: Path, images: ImageSet, spoilt: dict[str, Any]
) -> None:
    opened(tmp_path / "store", images, Counting())
    path = tmp_path / "store" / IDENTITY
    path.write_text(json.dumps(json.loads(path.read_text()) | spoilt))
    with pytest.raises(UserError, match="is damaged"):
        Store.found(tmp_path / "store")


def test_a_folder_below_a_file_is_refused(tmp_path: Path, images: ImageSet) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "store", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match=r"cannot (be read|write)"):
            opened(folder, images, Counting())


def test_the_bits_of_a_row_are_the_same_whatever_else_was_absent(
    tmp_path: Path, images: ImageSet
) -> None:
    def by_size(image: Tensor) -> Tensor:
        return exact(image) * (1 + 0.01 * (len(image) % 32))

    exact = Counting().exact
    whole = epoch(opened(tmp_path / "whole", images, by_size))
    part = opened(tmp_path / "part", images, by_size)
    for batch in part.loader:
        assert batch.view is not None
        part.fill([(batch.index[::3], batch.view[::3])], lambda count: None)
    assert same(whole, epoch(part))


def test_what_is_computed_again_is_spread_over_stores_of_any_size(
    tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = opened(tmp_path / "store", images, Counting())
    # Above 2^24 rows a float32 no longer tells one row from the next.
    rows = np.arange(20_500_000) % stored.store.records.rows
    monkeypatch.setattr(stored.store.records, "marked", lambda: rows)
    ((row, _),) = stored._sample(32)
    assert len(row) == 32


def test_a_teachers_figures_are_of_its_store_alone(tmp_path: Path, images: ImageSet) -> None:
    stores = [
        opened(tmp_path / name, images, Counting(), **{"teacher's weights": 64 * name}).store
        for name in "ab"
    ]
    names = {each.scores(test).name for each in stores for test in ("x", "y")}
    assert len(names) == 4
    path = stores[0].scores("x")
    path.write_text("{}")
    monkey = Path.cwd()
    os.chdir(tmp_path)
    try:
        remove(Path("a"))
    finally:
        os.chdir(monkey)
    assert not path.exists()


def test_there_is_a_word_for_a_folder_that_is_no_store(
    tmp_path: Path, images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("dear to me")
    with pytest.raises(UserError, match=r"such as thesis\.tex"):
        opened(tmp_path / "mine", images, Counting())
    with pytest.raises(UserError, match="no store"):
        remove(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "dear to me"
    with pytest.raises(UserError, match="is no folder"):
        opened(tmp_path / "mine" / "thesis.tex", images, Counting())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))  # pyright: ignore
    with pytest.raises(UserError, match=r"needs 0\.00 GiB, and 0\.00 GiB are free"):
        opened(tmp_path / "new", images, Counting())
    assert not (tmp_path / "new").exists()


def test_what_a_kill_left_of_a_store_that_was_being_made_is_no_hindrance(
    tmp_path: Path, images: ImageSet
) -> None:
    opened(tmp_path / "store", images, Counting())
    path = tmp_path / "store" / IDENTITY
    path.write_text(json.dumps({"format": 1, "made": False}))
    os.truncate(tmp_path / "store" / LOGITS, 3)
    with pytest.raises(UserError, match="it was not finished when it was made"):
        Store.found(tmp_path / "store")
    assert epoch(opened(tmp_path / "store", images, Counting()))


def test_logits_beyond_float16_are_refused_and_kept_in_float32(
    tmp_path: Path, images: ImageSet
) -> None:
    with pytest.raises(
        UserError, match=r"too large for float16: give teacher\.cache_dtype=float32"
    ):
        epoch(opened(tmp_path / "half", images, Counting(scale=1e5)))
    stored = opened(tmp_path / "full", images, Counting(scale=1e5), cache_dtype="float32")
    given, (batch, *_) = epoch(stored), list(stored.loader)
    torch.testing.assert_close(given[0], Counting(scale=1e5).exact(batch.image), rtol=5e-3, atol=9)
