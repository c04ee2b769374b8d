import math

import pytest
import torch
from tests.reference.feature_loops import ft_slowly
from tests.reference.golden_losses import golden_case
from torch import Tensor

from rlkd.errors import UserError
from rlkd.losses.factor_transfer import FT, Paraphraser, Translator, ft


def gradient(loss: Tensor, wrt: Tensor) -> Tensor:
    return torch.autograd.grad(loss, wrt)[0]


@pytest.fixture
def features() -> tuple[Tensor, Tensor]:
    """Student and teacher maps; the teacher's are not negative, as after a ReLU."""
    return torch.randn(4, 3, 8, 8, requires_grad=True), torch.rand(4, 6, 4, 4)


def test_ft_equals_the_golden_value_and_gradient() -> None:
    case = golden_case("factor_transfer")
    case.check(ft(**case.inputs), case.inputs)


def test_ft_equals_the_loop_in_value_and_gradient() -> None:
    student = torch.randn(3, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, 2, 3, dtype=torch.float64)
    rows, expected = ft(student, teacher, reduction="none"), ft_slowly(student, teacher)
    torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-14)
    mean = ft(student, teacher)
    torch.testing.assert_close(
        gradient(mean, student), gradient(expected.mean(), student), rtol=1e-9, atol=1e-14
    )


def test_ft_by_hand() -> None:
    # Squares (9, 16) have norm sqrt(337); the teacher looks only at the first of two positions.
    student, teacher = torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([[[[5.0, 0.0]]]])
    expected = (1 - 9 / math.sqrt(337) + 16 / math.sqrt(337)) / 2
    torch.testing.assert_close(ft(student, teacher).item(), expected)
    assert ft(student, student) == 0


def test_ft_of_dead_maps_gives_a_small_finite_gradient() -> None:
    student = torch.zeros(3, 2, 4, 4, requires_grad=True)
    value = ft(student, torch.rand(3, 2, 4, 4))
    assert torch.isfinite(value)
    assert gradient(value, student).abs().max() < 10


def test_the_module_adds_the_transfer_and_the_weighted_reconstruction(
    features: tuple[Tensor, Tensor],
) -> None:
    student, teacher = features
    loss = FT(student, teacher, reconstruction_weight=0.25)
    factor, rebuilt = loss.paraphraser(teacher)
    transfer = ft(loss.translator(student), factor)
    expected = transfer + 0.25 * (rebuilt - teacher).square().mean()
    torch.testing.assert_close(loss(student, teacher), expected)


def test_the_transfer_trains_the_translator_and_never_the_paraphraser(
    features: tuple[Tensor, Tensor],
) -> None:
    student, teacher = features
    loss = FT(student, teacher)
    loss(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.any()
    assert all(each.grad is not None and each.grad.any() for each in loss.translator.parameters())
    trained = [each.grad for each in loss.paraphraser.parameters()]
    loss.zero_grad()
    _, rebuilt = loss.paraphraser(teacher)
    (0.001 * (rebuilt - teacher).square().mean()).backward()
    for found, each in zip(trained, loss.paraphraser.parameters(), strict=True):
        assert found is not None
        assert found.any()
        torch.testing.assert_close(found, each.grad)


def test_the_paraphraser_learns_to_rebuild_the_teachers_map_along_the_way(
    features: tuple[Tensor, Tensor],
) -> None:
    student, teacher = features[0].detach(), features[1]
    loss = FT(student, teacher)

    def error() -> float:
        with torch.no_grad():
            return (loss.paraphraser(teacher)[1] - teacher).square().mean().item()

    before = error()
    # The published recipe: the term weighs 200, and SGD runs at 0.05 with momentum 0.9.
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.05, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        (200 * loss(student, teacher)).backward()
        optimizer.step()
    assert error() < 0.7 * before


def test_a_paraphraser_of_weight_0_stays_as_it_was_loaded(features: tuple[Tensor, Tensor]) -> None:
    student, teacher = features
    trained = Paraphraser(6, 3)
    loss = FT(student, teacher, reconstruction_weight=0.0)
    loss.paraphraser.load_state_dict(trained.state_dict())
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1, weight_decay=0.1)
    value = loss(student, teacher)
    torch.testing.assert_close(value, ft(loss.translator(student), trained(teacher)[0]))
    value.backward()
    optimizer.step()
    state = loss.paraphraser.state_dict()
    assert all(torch.equal(state[name], each) for name, each in trained.state_dict().items())


@pytest.mark.parametrize(("ratio", "channels"), [(0.5, 3), (1.0, 6), (0.01, 1), (2.0, 12)])
def test_the_ratio_sets_the_channels_of_both_factors(
    features: tuple[Tensor, Tensor], ratio: float, channels: int
) -> None:
    student, teacher = features
    loss = FT(student, teacher, ratio=ratio)
    factor, rebuilt = loss.paraphraser(teacher)
    assert factor.shape == (4, channels, 4, 4)
    assert rebuilt.shape == teacher.shape
    assert loss.translator(student).shape == (4, channels, 8, 8)


def test_a_translator_has_batch_norms_unless_told_otherwise() -> None:
    names = [name for name, _ in Translator(3, 4).named_buffers()]
    assert sum(name.endswith("running_mean") for name in names) == 3
    assert not list(Translator(3, 4, batch_norm=False).buffers())


def test_it_returns_from_its_state(features: tuple[Tensor, Tensor]) -> None:
    student, teacher = features
    loss, other = FT(student, teacher), FT(student, teacher)
    loss(student, teacher)
    assert loss(student, teacher) != other(student, teacher)
    other.load_state_dict(loss.state_dict())
    assert loss.eval()(student, teacher) == other.eval()(student, teacher)


def test_half_precision_maps_are_compared_in_float32(features: tuple[Tensor, Tensor]) -> None:
    student, teacher = features
    loss = FT(student, teacher)
    assert loss(student.bfloat16(), teacher.half()).dtype == torch.float32


@pytest.mark.parametrize("option", [{"ratio": 0.0}, {"reconstruction_weight": -1.0}])
def test_an_option_out_of_its_range_is_refused(
    features: tuple[Tensor, Tensor], option: dict[str, float]
) -> None:
    with pytest.raises(UserError, match=f"{next(iter(option))}=.*give"):
        FT(*features, **option)
