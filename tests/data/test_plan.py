import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from rlkd.data.loaders.batch_plan import Plan, leaves_one
from rlkd.distributed import Rank
from rlkd.errors import UserError


def batches(count: int, size: int, *, world: int, passes: int) -> list[list[list[int]]]:
    """Rows of each rank's batches, of an order that is told from the rows themselves."""
    order = torch.arange(count) + 100
    plans = [Plan(count, size, part=Rank(rank, world), passes=passes) for rank in range(world)]
    return [[plan.rows(order, at).tolist() for at in range(len(plan))] for plan in plans]


def test_two_ranks_and_two_passes_share_a_global_batch_in_contiguous_parts() -> None:
    # 18 rows in batches of 8: 100-107, 108-115, and 116, 117, which two ranks with two passes
    # cannot share. Pass by pass a rank takes its half of four.
    first, second = batches(18, 8, world=2, passes=2)
    assert first == [[100, 101], [104, 105], [108, 109], [112, 113]]
    assert second == [[102, 103], [106, 107], [110, 111], [114, 115]]


def test_a_last_batch_that_is_not_full_is_cut_to_equal_shares() -> None:
    first, second = batches(15, 8, world=2, passes=2)  # 7 over, of which 4 are shared
    assert (first[2:], second[2:]) == ([[108], [110]], [[109], [111]])
    assert batches(15, 8, world=2, passes=1)[0][1] == [108, 109, 110]  # 6 of 7 are shared
    assert batches(15, 8, world=1, passes=1) == [[list(range(100, 108)), list(range(108, 115))]]


@given(
    count=some.integers(1, 200),
    world=some.integers(1, 5),
    passes=some.integers(1, 4),
    times=some.integers(1, 6),
)
def test_ranks_and_passes_together_are_the_global_batch_whatever_their_number(
    count: int, world: int, passes: int, times: int
) -> None:
    size = world * passes * times
    if count < world * passes:
        with pytest.raises(UserError, match="too few for"):
            batches(count, size, world=world, passes=passes)
        return
    shared = batches(count, size, world=world, passes=passes)
    assert len({len(own) for own in shared}) == 1
    assert len(shared[0]) % passes == 0
    together: list[int] = []
    for at in range(len(shared[0])):
        sizes = {len(own[at]) for own in shared}
        assert len(sizes) == 1
        assert min(sizes) > 0
        together += [row for own in shared for row in own[at]]
    # Row by row the order of one process, but for fewer rows than shares at its very end.
    assert together == list(range(100, 100 + len(together)))
    assert count - len(together) < world * passes


@pytest.mark.parametrize("world", [1, 2, 3])
def test_where_every_row_is_seen_ranks_take_turns_and_none_is_left_out(world: int) -> None:
    order = torch.arange(11)
    plans = [Plan(11, 2, every_row=True, part=Rank(rank, world)) for rank in range(world)]
    seen = [[plan.rows(order, at).tolist() for at in range(len(plan))] for plan in plans]
    assert sorted(row for own in seen for batch in own for row in batch) == list(range(11))
    assert [batch for batch in seen[-1] if not batch] == []
    assert seen[0][0] == [0, world]


def test_a_global_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(UserError, match=r"trainer\.batch_size=30 .* 2 ranks and 4 .* of 8$"):
        Plan(100, 30, part=Rank(0, 2), passes=4)
    with pytest.raises(UserError, match=r"trainer\.accumulate=0"):
        Plan(100, 30, passes=0)
    assert len(Plan(100, 30, every_row=True, part=Rank(0, 7))) == 1


def test_a_last_batch_of_one_row_a_share_is_told() -> None:
    assert leaves_one(65, 64, 1)
    assert not leaves_one(66, 64, 1)
    # 67 over two ranks and two passes: 3 are over, no share has a row; of 71, 4 are, one a share.
    assert [leaves_one(64 + over, 64, 4) for over in (0, 3, 4, 7, 8)] == [
        False,
        False,
        True,
        True,
        False,
    ]
