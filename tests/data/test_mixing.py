from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from rlkd import distributed
from rlkd.data.seeding import generator_of
from rlkd.data.transforms.mixing import Mix, Mixing
from rlkd.distributed import Rank
from rlkd.types import Batch

CLASSES = 5


@pytest.fixture
def given() -> Batch:
    generator = torch.Generator().manual_seed(0)
    image, strong = torch.randn(2, 6, 3, 8, 8, generator=generator)
    row = torch.arange(6)
    return Batch(image, row % CLASSES, row, strong, view=row)


def mixing(kind: Mix, alpha: float | int = 0.4, seed: int = 1) -> Mixing:
    return Mixing(kind, alpha=alpha, num_classes=CLASSES, seed=seed)


@pytest.mark.parametrize(("kind", "made"), [("mixup", v2.MixUp), ("cutmix", v2.CutMix)])
def test_images_and_labels_are_torchvisions(
    kind: Mix, made: Callable[..., Callable[..., tuple[Tensor, Tensor]]], given: Batch
) -> None:
    before = torch.get_rng_state()
    mixed = mixing(kind)(given, epoch=2, number=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(mixed.image) is Tensor
    for view in (given.image, given.strong):
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator_of(1, 2, 3, 7, 0).get_state())
            image, target = made(alpha=0.4, num_classes=CLASSES)(view, given.target)
        assert torch.equal(mixed.image if view is given.image else mixed.strong, image)
        assert torch.equal(mixed.target, target)
    assert mixed.view is not None
    assert (mixed.view == -1).all()
    assert torch.equal(mixed.index, given.index)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_by_hand_the_label_has_as_much_of_each_class_as_the_image_of_each_image(
    kind: Mix, given: Batch
) -> None:
    # Images of one colour each, by row: the mean colour of a mixed one says what it is made of.
    colour = torch.arange(6.0)
    flat = Batch(colour[:, None, None, None].expand(6, 3, 8, 8), given.target, given.index)
    mixed = mixing(kind)(flat, epoch=0, number=0)
    share = mixed.target[1, 1]  # row 1 is of class 1, and mixed with row 0, of class 0
    assert 0 < share < 1
    expected = share * colour + (1 - share) * colour.roll(1)
    torch.testing.assert_close(mixed.image.mean(dim=(1, 2, 3)), expected)
    torch.testing.assert_close(mixed.target.sum(dim=1), torch.ones(6))


def test_each_batch_epoch_and_seed_has_a_draw_of_its_own(given: Batch) -> None:
    def share(seed: int, epoch: int, number: int) -> float:
        return mixing("mixup", seed=seed)(given, epoch=epoch, number=number).target[1, 1].item()

    assert len({share(*each) for each in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]}) == 4
    assert share(1, 1, 1) == share(1, 1, 1)


def test_a_batch_keeps_its_layout(given: Batch) -> None:
    image = given.image.contiguous(memory_format=torch.channels_last)
    for kind in ("mixup", "cutmix"):
        mixed = mixing(kind)(Batch(image, given.target, given.index), epoch=0, number=0)
        assert mixed.image.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("alpha", [1, 2])
def test_a_whole_number_is_an_alpha_too(alpha: int, given: Batch) -> None:
    whole = mixing("mixup", alpha=alpha)(given, epoch=0, number=0)
    assert torch.equal(whole.image, mixing("mixup", float(alpha))(given, epoch=0, number=0).image)


def test_each_rank_mixes_by_a_draw_of_its_own(
    given: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "this_rank", lambda: Rank(1, 2))
    mixed = mixing("mixup")(given, epoch=2, number=7)
    with torch.random.fork_rng():
        torch.set_rng_state(generator_of(1, 2, 3, 7, 1).get_state())
        image, _ = v2.MixUp(alpha=0.4, num_classes=CLASSES)(given.image, given.target)
    assert torch.equal(mixed.image, image)
