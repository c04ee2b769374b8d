"""Images that cannot be decoded: a stop that names them, or a count."""

from pathlib import Path

import pytest
import torch
from tests.data.streams import (
    COUNT,
    SMALL,
    encoded,
    in_folder,
    loader_of,
    numbers,
    write_parquet,
)

from rlkd.data import Dataset, StreamSet, first_readable, in_memory
from rlkd.data.datasets import parquet
from rlkd.data.loaders.workers import Made, Maker, Request
from rlkd.data.sources.unreadable import Unreadable
from rlkd.distributed import Rank
from rlkd.errors import UserError

BROKEN = (3, 4, 5, 20)


def broken(root: Path, policy: str, *, workers: int = 0) -> Dataset:
    """24 images, of which rows 3, 4, 5 and 20 are cut short, empty, gone and no image."""
    dataset = in_folder(root, unreadable=policy, workers=workers)
    files = [Path(dataset.train.place(row)) for row in BROKEN]  # pyright: ignore
    files[0].write_bytes(encoded(5)[:50])
    files[1].write_bytes(b"")
    files[2].unlink()
    files[3].write_text("not an image")
    return dataset


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stops_and_is_named(tmp_path: Path, workers: int) -> None:
    images = broken(tmp_path, "stop", workers=workers).train.select(torch.tensor([0, 20, 1, 2]))
    with pytest.raises(
        UserError, match=r"train/c/14\.png cannot be decoded .*data\.unreadable=skip$"
    ) as caught:
        list(loader_of(images, batch_size=2))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_puts_the_next_readable_image_in_the_place_of_one_that_is_not(
    tmp_path: Path, workers: int
) -> None:
    dataset = broken(tmp_path, "skip", workers=workers)
    whole = in_folder(tmp_path / "whole").train
    content = [n for batch in loader_of(whole, shuffle=False) for n in numbers(batch.image)]
    loader = loader_of(dataset.train)
    index: list[int] = []
    for batch in loader:
        assert len(batch.index) == 6
        assert numbers(batch.image) == [content[row] for row in batch.index.tolist()]
        assert torch.equal(batch.target, dataset.train.target[batch.index])
        index += batch.index.tolist()
    stand_in = {3: 6, 4: 6, 5: 6, 20: 21}
    assert sorted(index) == sorted(stand_in.get(row, row) for row in range(COUNT))
    assert dataset.unreadable is not None
    assert len(dataset.unreadable.places) == 4
    list(loader)
    assert len(dataset.unreadable.places) == 4  # each counts once


def test_what_stands_in_is_the_same_for_any_number_of_ranks(tmp_path: Path) -> None:
    images = broken(tmp_path, "skip").train
    alone = [batch.index for batch in loader_of(images)]
    parts = [[b.index for b in loader_of(images, part=Rank(rank, 2))] for rank in (0, 1)]
    assert torch.equal(
        torch.cat([torch.cat(both) for both in zip(*parts, strict=True)]), torch.cat(alone)
    )


def test_an_unreadable_partner_is_replaced_too(tmp_path: Path) -> None:
    images = broken(tmp_path, "skip").train
    loader = loader_of(images)
    loader.set_partners(torch.full((COUNT,), 4))
    batch = next(iter(loader))
    assert loader.partner_batch(batch).index.tolist() == [6] * 6


def test_an_evaluation_leaves_unreadable_images_out(tmp_path: Path) -> None:
    dataset = broken(tmp_path, "skip")
    batches = list(loader_of(dataset.train, shuffle=False, batch_size=3))
    index = torch.cat([batch.index for batch in batches])
    assert index.tolist() == [row for row in range(COUNT) if row not in BROKEN]
    assert len(batches) == 7  # rows 3 to 5 are a batch of which nothing is left
    assert torch.equal(in_memory(dataset.train).target, dataset.train.target[index])


def test_where_nothing_can_be_decoded_training_and_evaluation_say_so(tmp_path: Path) -> None:
    images = broken(tmp_path, "skip").train.select(torch.tensor([3, 4]))
    with pytest.raises(UserError, match="nor any of the 2 images from it on"):
        list(loader_of(images, batch_size=2))
    with pytest.raises(UserError, match="none of 2 images can be decoded"):
        list(loader_of(images, batch_size=2, shuffle=False))
    with pytest.raises(UserError, match="none of 2 images can be decoded"):
        in_memory(images)


def test_a_rank_of_which_nothing_can_be_decoded_leaves_the_scoring_to_the_others(
    tmp_path: Path,
) -> None:
    images = broken(tmp_path, "skip").train.select(torch.tensor([3, 0, 4, 1]))
    parts = [list(loader_of(images, shuffle=False, part=Rank(rank, 2))) for rank in (0, 1)]
    assert parts[0] == []
    assert [batch.index.tolist() for batch in parts[1]] == [[1, 3]]


def test_a_long_row_of_unreadable_images_is_passed_over(tmp_path: Path) -> None:
    images = broken(tmp_path, "skip").train.select(torch.tensor([*[4] * 2000, 0]))
    assert isinstance(images, StreamSet)
    made = Maker(images, seed=0, augment=True)[Request(0, [0], [])]
    assert isinstance(made, Made)
    assert made.row.tolist() == [2000]


def test_the_first_readable_rows_are_those_after_the_unreadable(tmp_path: Path) -> None:
    images = broken(tmp_path, "skip", workers=2).train
    assert first_readable(images, 5).tolist() == [0, 1, 2, 6, 7]
    assert first_readable(images.select(torch.tensor([3, 4, 0])), 5).tolist() == [2]
    assert first_readable(in_memory(images), 2).tolist() == [0, 1]
    with pytest.raises(UserError, match="none of 2 images can be decoded"):
        first_readable(images.select(torch.tensor([3, 4])), 5)


def test_a_broken_row_of_a_shard_is_named_by_shard_and_row(tmp_path: Path) -> None:
    dataset = parquet(root=write_parquet(tmp_path, replace={12: b"", 13: b"rubbish"}), **SMALL)
    for row, number in ((12, 4), (13, 5)):
        with pytest.raises(
            UserError, match=rf"train-00001-of-00003\.parquet, row {number} cannot be decoded"
        ):
            list(loader_of(dataset.train.select(torch.tensor([row])), batch_size=1))


def test_what_is_told_counts_all_and_names_the_first() -> None:
    unreadable = Unreadable("skip")
    assert unreadable.note == ""
    unreadable.add(["x"])
    assert unreadable.note.startswith("1 image that cannot be decoded was skipped")
    unreadable.add(["x", "y", "z", "w"])
    assert unreadable.note.startswith("4 images that cannot be decoded were skipped")
    assert unreadable.note.endswith("x, y, z and 1 more")
    with pytest.raises(UserError, match=r"data\.unreadable=ignore: choose stop or skip"):
        Unreadable("ignore")
