import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlkd.errors import UserError
from rlkd.models.features import Taps, module_at, named_taps


class Small(nn.Module):
    """Two resolutions and a classifier, as anybody might write them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.unused = nn.Linear(2, 2)
        self.fc = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.fc(self.body(self.stem(image)).mean((2, 3)))


@pytest.fixture
def network() -> Small:
    torch.manual_seed(0)
    return Small()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def test_the_features_are_those_of_the_modules(network: Small, image: Tensor) -> None:
    logits, kept = Taps(network, ["stem", "body.1", "fc:input"])(image)
    stem = network.stem(image)
    body = network.body(stem)
    assert torch.equal(kept["stem"], stem)
    assert torch.equal(kept["body.1"], body)
    assert torch.equal(kept["fc:input"], body.mean((2, 3)))
    assert torch.equal(logits, network(image))


def test_features_carry_the_gradient_back_to_the_network(network: Small, image: Tensor) -> None:
    _, kept = Taps(network, ["body"])(image)
    kept["body"].sum().backward()
    assert network.stem.weight.grad is not None


def test_nothing_is_kept_of_other_calls(network: Small, image: Tensor) -> None:
    taps = Taps(network, ["stem"])
    taps(image)
    network(2 * image)
    assert torch.equal(taps(image)[1]["stem"], network.stem(image))
    assert taps._kept is None


def test_a_wrapper_may_be_called_in_place_of_the_network(network: Small, image: Tensor) -> None:
    logits, kept = Taps(network, ["stem"], call=lambda given: 2 * network(given))(image)
    assert torch.equal(logits, 2 * network(image))
    assert torch.equal(kept["stem"], network.stem(image))


def test_a_path_that_does_not_exist_lists_the_nearest(network: Small) -> None:
    with pytest.raises(UserError, match=r"no module 'bodi\.1' in Small: the nearest are body\.1"):
        Taps(network, ["bodi.1"])
    with pytest.raises(UserError, match=r"no module 'xxxx'"):
        module_at(network, "xxxx:input")


def test_a_module_that_is_never_called_is_named(network: Small, image: Tensor) -> None:
    with pytest.raises(UserError, match="'unused' is not called"):
        Taps(network, ["unused"])(image)


def test_a_module_that_gives_no_tensor_is_named(image: Tensor) -> None:
    class Pair(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            return image, image

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, image: Tensor) -> Tensor:
            return self.pair(image)[0].flatten(1)

    with pytest.raises(UserError, match="'pair' gives a tuple"):
        Taps(Outer(), ["pair"])(image)


def test_a_networks_own_names_come_first(network: Small, image: Tensor) -> None:
    network.taps = {"stage1": "stem", "embedding": "fc:input"}  # pyright: ignore
    assert named_taps(network, image) == {"stage1": "stem", "embedding": "fc:input"}


def test_otherwise_a_stage_is_the_last_map_of_its_resolution(network: Small, image: Tensor) -> None:
    network.train()
    found = named_taps(network, image)
    assert found == {"stem": "stem", "stage1": "body", "embedding": "fc:input"}
    assert network.training
    assert network.body.training
    assert not network.stem._forward_hooks


def test_a_torchvision_network_has_its_four_stages_and_an_embedding() -> None:
    from torchvision.models import resnet18

    found = named_taps(resnet18(), torch.randn(1, 3, 64, 64))
    assert found == {
        "stem": "relu",
        **{f"stage{number}": f"layer{number}" for number in range(1, 5)},
        "embedding": "fc:input",
    }


def test_layers_that_hold_no_others_are_stages_from_the_first(image: Tensor) -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 1, stride=2)]
    found = named_taps(nn.Sequential(*layers), image)
    assert found == {"stage1": "0", "stage2": "1", "stage3": "2"}


def test_a_module_called_twice_is_no_stage_and_cannot_be_tapped(image: Tensor) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, stride=2)
            self.relu, self.fc = nn.ReLU(), nn.Linear(4, 5)

        def forward(self, image: Tensor) -> Tensor:
            return self.fc(self.relu(self.two(self.relu(self.one(image)))).mean((2, 3)))

    found = named_taps(Shared(), image)
    assert found == {"stage1": "one", "stage2": "two", "embedding": "fc:input"}
    with pytest.raises(UserError, match="'relu' is called 2 times"):
        Taps(Shared(), ["relu"])(image)


def test_maps_of_attention_and_of_channels_last_are_no_stages_nor_are_its_patches() -> None:
    from torchvision.models import swin_t, vit_b_16

    for network in (vit_b_16(image_size=32), swin_t()):
        (name,) = named_taps(network, torch.randn(1, 3, 32, 32))
        assert name == "embedding"


def test_what_is_changed_in_place_afterwards_is_refused(image: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Flatten())
    with pytest.raises(UserError, match="'0' gives is changed in place"):
        Taps(network, ["0"])(image)
    assert Taps(network, ["1"])(image)[1]["1"].min() >= 0


def test_a_map_that_is_changed_in_place_by_no_module_is_no_stage(image: Tensor) -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.fc = nn.Linear(4, 5)

        def forward(self, image: Tensor) -> Tensor:
            normed = self.norm(self.one(image))
            return self.fc(functional.relu(normed, inplace=True).mean((2, 3)))

    assert named_taps(Dense(), image) == {"stage1": "one", "embedding": "fc:input"}


def test_the_stages_of_a_torchvision_densenet_can_be_tapped() -> None:
    from torchvision.models import densenet121

    network, image = densenet121(), torch.randn(2, 3, 64, 64)
    found = named_taps(network, image)
    stages = [path for name, path in found.items() if name != "embedding"]
    assert stages[-1] == "features.denseblock4"
    kept = Taps(network, stages)(image)[1]
    assert [len(each.shape) for each in kept.values()] == [4] * len(stages)
