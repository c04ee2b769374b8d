import copy

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rlkd.models import Teacher, mean_of


def teachers(count: int) -> list[nn.Module]:
    torch.manual_seed(0)
    return [nn.Sequential(nn.Flatten(), nn.Linear(3, 4)) for _ in range(count)]


def images() -> Tensor:
    return torch.randn(5, 3, 1, 1)


def test_the_logits_are_the_weighted_mean_by_hand() -> None:
    networks, image = teachers(2), images()
    expected = (networks[0](image) + 3 * networks[1](image)) / 4
    made = mean_of([Teacher(copy.deepcopy(each)) for each in networks], [0.5, 1.5])
    assert_close(made(image), expected.detach())
    assert not made(image).requires_grad


def test_its_softmax_is_the_geometric_mean_of_theirs() -> None:
    networks, image = teachers(3), images()
    product = torch.stack([each(image).softmax(1) for each in networks]).log().mean(0).exp()
    made = mean_of([Teacher(each) for each in networks], [1.0, 1.0, 1.0])
    assert_close(made(image).softmax(1), (product / product.sum(1, keepdim=True)).detach())


def test_each_keeps_its_own_precision_and_normalisation_and_follows_to_a_device() -> None:
    networks, image = teachers(2), images()
    scale, shift = torch.rand(2, 3, 1, 1)
    low = copy.deepcopy(networks[0]).bfloat16()
    expected = (low(image.bfloat16()).float() + networks[1](image * scale + shift)) / 2
    made = mean_of(
        [
            Teacher(networks[0], dtype=torch.bfloat16),
            Teacher(networks[1], renormalise=(scale, shift)),
        ],
        [1.0, 1.0],
    )
    assert_close(made(image), expected.detach())
    parent = nn.ModuleList([made])
    assert not list(parent.parameters())
    assert not parent.state_dict()
    parent.to("meta")
    assert {p.device.type for each in networks for p in each.parameters()} == {"meta"}


def test_other_weights_and_other_teachers_are_another_teacher() -> None:
    def sha256(names: str, weights: list[float]) -> str | None:
        return mean_of([Teacher(nn.Linear(1, 1), sha256=each) for each in names], weights).sha256

    known = {
        sha256("ab", [1.0, 1.0]),
        sha256("ab", [1.0, 2.0]),
        sha256("ba", [1.0, 1.0]),
        sha256("ac", [1.0, 1.0]),
    }
    assert len(known) == 4
    assert sha256("ab", [1.0, 1.0]) in known


def test_the_mean_is_not_rounded_in_mixed_precision() -> None:
    made = mean_of([Teacher(nn.Flatten()), Teacher(nn.Flatten())], [1.0, 3.0])
    logits = torch.tensor([[1.001, 9.003]])  # no bfloat16 has as many digits
    with torch.autocast("cpu", torch.bfloat16):
        found = made(logits[:, :, None, None])
    assert torch.equal(found, logits)
