import pytest
import torch

from rlkd.data import ImageSet, hold_out
from rlkd.data.splits import choose_rows, limited
from rlkd.errors import UserError


def rows_of(part: ImageSet, whole: ImageSet) -> list[int]:
    same = (part.image[:, None] == whole.image[None]).flatten(2).all(dim=2)
    return same.nonzero()[:, 1].tolist()


def test_each_class_gives_its_share() -> None:
    # 3 of 9 rows: a third of 6 is 2, a third of 3 is 1.
    target = torch.tensor([0, 1, 0, 0, 1, 0, 0, 1, 0])
    assert target[choose_rows(target, 3, seed=0)].bincount().tolist() == [2, 1]


def test_no_share_is_off_by_one_or_more_and_the_size_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 7, (200,), generator=generator)
    for size in (0, 1, 6, 50, 199, 200):
        rows = choose_rows(target, size, seed=1)
        share = size * target.bincount() / 200
        assert len(rows.unique()) == size
        assert (target[rows].bincount(minlength=7) - share).abs().max() < 1


def test_classes_that_tie_are_drawn_by_lot() -> None:
    target = torch.arange(100).repeat(5)
    classes = [set(target[choose_rows(target, 50, seed=seed)].tolist()) for seed in (0, 1)]
    assert len(classes[0]) == len(classes[1]) == 50
    assert classes[0] != classes[1]
    assert max(classes[0]) > 50


def test_hold_out_splits_without_loss_or_overlap(images: ImageSet) -> None:
    kept, held = hold_out(images, 9, seed=5)
    assert len(held) == 9
    assert held.target.bincount().tolist() == [3, 3, 3]
    kept_rows, held_rows = rows_of(kept, images), rows_of(held, images)
    assert kept_rows == sorted(kept_rows)
    assert held_rows == sorted(held_rows)
    assert sorted(kept_rows + held_rows) == list(range(23))
    assert torch.equal(kept.target, images.target[kept_rows])


def test_hold_out_depends_on_the_seed_alone(images: ImageSet) -> None:
    first = rows_of(hold_out(images, 9, seed=5)[1], images)
    torch.rand(2)
    assert rows_of(hold_out(images, 9, seed=5)[1], images) == first
    assert rows_of(hold_out(images, 9, seed=6)[1], images) != first


def test_hold_out_without_strata_keeps_the_size(images: ImageSet) -> None:
    kept, held = hold_out(images, 9, seed=0, stratified=False)
    assert sorted(rows_of(kept, images) + rows_of(held, images)) == list(range(23))
    assert len(held) == 9


def test_holding_out_nothing_keeps_all(images: ImageSet) -> None:
    kept, held = hold_out(images, 0, seed=0)
    assert torch.equal(kept.image, images.image)
    assert len(held) == 0


@pytest.mark.parametrize("size", [-1, 23])
def test_a_hold_out_that_leaves_nothing_is_refused(images: ImageSet, size: int) -> None:
    with pytest.raises(UserError, match=f"hold out {size} of 23 images: give 0 to 22"):
        hold_out(images, size, seed=0)


def test_a_limit_keeps_that_many_and_none_keeps_all(images: ImageSet) -> None:
    assert limited(images, 6).target.bincount().tolist() == [2, 2, 2]
    assert torch.equal(limited(images, 6).image, limited(images, 6).image)
    assert torch.equal(limited(images, 23).image, images.image)
    assert limited(images, None) is images


@pytest.mark.parametrize("limit", [0, 24])
def test_a_limit_out_of_range_is_refused(images: ImageSet, limit: int) -> None:
    with pytest.raises(UserError, match=f"data.limit={limit}"):
        limited(images, limit)
