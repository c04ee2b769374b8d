from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlkd.errors import UserError
from rlkd.exploration import Bands, Explorer
from rlkd.types import Batch

INSTANCES, CLASSES = 10, 3


def explorer(
    *, epochs: int = 2, bands: Bands | None = None, mix_weight: float = 0.7, seed: int = 0
) -> Explorer:
    return Explorer(
        instances=INSTANCES,
        num_classes=CLASSES,
        first_epoch=3,
        epochs=epochs,
        bands=bands or Bands(),
        mix_weight=mix_weight,
        seed=seed,
    )


def batch(*rows: int) -> Batch:
    """Images filled with their row, classes in turn."""
    index = torch.tensor(rows)
    image = index.float()[:, None, None, None].expand(-1, 1, 2, 2)
    return Batch(image, index % CLASSES, index)


def partners_of(given: Explorer) -> Callable[[Batch], Batch]:
    def look_up(one: Batch) -> Batch:
        return batch(*given.partner[one.index].clamp_min(0).tolist())

    return look_up


def never(_: Batch) -> Batch:
    raise AssertionError("partners were fetched for nothing")


def logits_of_entropy(rank_of_row: Tensor) -> Tensor:
    """Logits whose entropy falls as the rank rises."""
    confident = torch.zeros(len(rank_of_row), CLASSES)
    confident[:, 0] = rank_of_row.float()
    return confident


def record_everything(given: Explorer, ranks: Tensor) -> None:
    given.observe(given.explore(batch(*range(INSTANCES)), never), logits_of_entropy(ranks))


def test_outside_its_epochs_batches_pass_through() -> None:
    given = explorer()
    for epoch in (1, 2, 5, 6):
        given.start_epoch(epoch)
        one = batch(4, 2)
        explored = given.explore(one, never)
        assert explored.batch is one
        assert explored.learn_from is None
        assert explored.mixed is None


def test_where_nothing_is_recorded_yet_the_first_rows_are_not_the_selected_ones() -> None:
    """A data set in folders has its classes one after the other."""
    chosen = set[tuple[int, ...]]()
    for seed in range(8):
        given = explorer(seed=seed)
        given.start_epoch(3)
        rows = given.selected.nonzero().flatten().tolist()
        assert len(rows) == 2  # 20 %
        chosen.add(tuple(rows))
    assert len(chosen) > 4


def test_in_its_epochs_only_rows_of_the_selected_set_are_learnt_from() -> None:
    given = explorer()
    given.start_epoch(2)
    record_everything(given, torch.tensor([5, 0, 7, 2, 4, 1, 8, 3, 6, 9]))
    given.start_epoch(3)
    # ranks: instance 1 first, 5 second; the mixed band is rank 2 (5), its partner rank 5 (4)
    explored = given.explore(batch(5, 4, 1, 0), partners_of(given))
    assert explored.learn_from is not None
    assert explored.learn_from.tolist() == [True, False, True, False]
    assert explored.mixed is not None
    assert explored.mixed.tolist() == [True, False, False, False]
    # 0.7 * 5 + 0.3 * 4 = 4.7; classes 5 % 3 = 2 and 4 % 3 = 1
    torch.testing.assert_close(explored.batch.image[0], torch.full((1, 2, 2), 4.7))
    torch.testing.assert_close(explored.batch.target[0], torch.tensor([0.0, 0.3, 0.7]))
    assert explored.batch.image[1:, 0, 0, 0].tolist() == [4.0, 1.0, 0.0]


def test_the_strong_view_of_a_mixed_row_is_its_mixed_image() -> None:
    given = explorer()
    record_everything(given, torch.tensor([5, 0, 7, 2, 4, 1, 8, 3, 6, 9]))
    given.start_epoch(3)
    one = batch(5, 4, 1, 0)
    explored = given.explore(replace(one, strong=one.image + 100), partners_of(given))
    strong = explored.batch.strong
    assert strong is not None
    # instance 5 alone is mixed: 0.7 * 5 + 0.3 * 4 = 4.7
    torch.testing.assert_close(strong[0], torch.full((1, 2, 2), 4.7))
    assert torch.equal(strong[0], explored.batch.image[0])
    assert strong[1:, 0, 0, 0].tolist() == [104.0, 101.0, 100.0]
    assert explored.batch.image[1:, 0, 0, 0].tolist() == [4.0, 1.0, 0.0]


def test_a_batch_of_one_view_is_explored_without_a_second() -> None:
    given = explorer()
    record_everything(given, torch.arange(INSTANCES))
    given.start_epoch(3)
    assert given.explore(batch(1, 6), partners_of(given)).batch.strong is None


def test_the_ranking_is_made_anew_in_each_explored_epoch() -> None:
    given = explorer()
    record_everything(given, torch.arange(INSTANCES))
    given.start_epoch(3)
    assert given.selected.nonzero().flatten().tolist() == [0, 1]
    given.record.entropy.copy_(given.record.entropy.flip(0))
    given.start_epoch(4)
    assert given.selected.nonzero().flatten().tolist() == [8, 9]


def test_a_resumed_epoch_keeps_its_ranking() -> None:
    given, other = explorer(), explorer()
    record_everything(given, torch.arange(INSTANCES))
    given.start_epoch(3)
    given.record.entropy.copy_(given.record.entropy.flip(0))  # as the epoch goes on
    other.load_state_dict(given.state_dict())
    other.start_epoch(3, resumed=True)
    assert other.active
    assert torch.equal(other.selected, given.selected)
    assert torch.equal(other.partner, given.partner)
    assert other.selected.nonzero().flatten().tolist() == [0, 1]


def test_the_entropy_of_a_mixed_image_is_not_recorded() -> None:
    given = explorer()
    record_everything(given, torch.arange(INSTANCES))
    given.start_epoch(3)
    before = given.record.entropy.clone()
    explored = given.explore(batch(1, 6), partners_of(given))  # instance 1 is mixed
    given.observe(explored, torch.zeros(2, CLASSES))
    assert given.record.entropy[1] == before[1]
    assert given.record.entropy[6] > before[6]


def test_the_mix_weight_is_an_option() -> None:
    given = explorer(mix_weight=0.25)
    record_everything(given, torch.arange(INSTANCES))
    given.start_epoch(3)
    explored = given.explore(batch(1), partners_of(given))  # partner: rank 5, instance 4
    torch.testing.assert_close(explored.batch.image, torch.full((1, 1, 2, 2), 0.25 + 3.0))


def test_an_empty_band_mixes_nothing_and_the_agent_still_learns_from_the_selected() -> None:
    given = explorer(bands=Bands(mixed=(0.0, 0.0)))
    record_everything(given, torch.arange(INSTANCES))
    given.start_epoch(3)
    one = batch(1, 6)
    explored = given.explore(one, never)
    assert explored.batch is one
    assert explored.mixed is None
    assert explored.learn_from is not None
    assert explored.learn_from.tolist() == [True, False]
    assert (given.mixed_rows, given.mixed_epochs(9)) == (0, 0)


def test_it_says_how_much_of_a_run_it_mixes() -> None:
    given = explorer()  # epochs 3 and 4, a band of a tenth
    assert given.mixed_rows == 1
    assert [given.mixed_epochs(epochs) for epochs in (2, 3, 9)] == [0, 1, 2]


def test_exploring_no_epoch_is_possible() -> None:
    given = explorer(epochs=0)
    given.start_epoch(3)
    assert not given.active


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_an_impossible_mix_weight_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match=f"mix_weight={weight}: give a number from 0 to 1"):
        explorer(mix_weight=weight)


def test_a_negative_number_of_epochs_is_refused() -> None:
    with pytest.raises(UserError, match=r"epochs=-1: give a whole number of at least 0"):
        explorer(epochs=-1)
