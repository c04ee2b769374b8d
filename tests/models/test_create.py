import sys
from pathlib import Path

import pytest
import torch
import torchvision

from rlkd.errors import UserError
from rlkd.models import create, names
from rlkd.models.cifar.resnet import ResNet
from rlkd.models.small import SmallConvNet

MODULE = """
from torch import nn

def plain(num_classes, width=3):
    return nn.Linear(width, num_classes)

def with_channels(*, num_classes, in_channels):
    return nn.Conv2d(in_channels, num_classes, 1)

def open_ended(num_classes, **kwargs):
    return nn.Conv2d(kwargs.get("in_channels", 3), num_classes, 1)

def not_a_network(num_classes):
    return num_classes

a_number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_networks.py").write_text(MODULE)
    (tmp_path / "broken_networks.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_networks"


def _refusal(name: str, **kwargs: int) -> str:
    with pytest.raises(UserError) as caught:
        create(name, num_classes=kwargs.pop("num_classes", 10), **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", names())
def test_every_packaged_name_builds_with_the_channels_and_classes_asked_for(name: str) -> None:
    model = create(name, num_classes=7, in_channels=1).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 1, 8, 8)).shape == (1, 7)


def test_further_keywords_reach_the_network() -> None:
    model = create("convnet_tiny", num_classes=2, in_channels=1, channels=(5,))
    assert isinstance(model, SmallConvNet)
    assert model.fc.weight.shape == (2, 5)


def test_torchvision_names_build_torchvisions_network_without_weights() -> None:
    model = create("torchvision:resnet18", num_classes=10)
    assert isinstance(model, torchvision.models.ResNet)
    shapes = [tensor.shape for tensor in model.state_dict().values()]
    expected = torchvision.models.resnet18(num_classes=10).state_dict().values()
    assert shapes == [tensor.shape for tensor in expected]


def test_torchvision_refuses_grey_images() -> None:
    message = _refusal("torchvision:resnet18", in_channels=1)
    assert "take 3 channels, the images have 1" in message


def test_timm_names_build_timms_network_without_weights() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = create("timm:resnet18", num_classes=10, in_channels=1).eval()
    expected = timm.models.resnet.resnet18(num_classes=10, in_chans=1)
    assert type(model) is type(expected)
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in expected.state_dict().items()}
    with torch.inference_mode():
        assert model(torch.rand(1, 1, 32, 32)).shape == (1, 10)


def test_a_timm_name_may_carry_the_tag_of_its_published_weights() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    assert create("timm:resnet18.a1_in1k", num_classes=3).fc.weight.shape == (3, 512)
    assert "'timm:resnet18.a1_in1k'" in _refusal("timm:resnet18.a1_in2k")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("timm:resnet19", "timm:resnet18"), ("timm:ResNet18", "timm:resnet18")],
)
def test_an_unknown_timm_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    message = _refusal(name)
    assert f"model '{name}' is unknown; did you mean '{nearest}' or 'timm:" in message


def test_a_timm_name_never_reaches_for_a_hub() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    assert "is unknown" in _refusal("timm:hf-hub:somebody/resnet18")


def test_timm_is_asked_for_when_it_is_named_and_only_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install timm" in _refusal("timm:resnet18")
    create("resnet8", num_classes=10)


def test_a_factory_is_called_with_the_class_count_and_the_keywords(own_module: str) -> None:
    model = create(f"{own_module}:plain", num_classes=4, in_channels=1, width=5)
    assert model.state_dict()["weight"].shape == (4, 5)


@pytest.mark.parametrize("factory", ["with_channels", "open_ended"])
def test_a_factory_that_takes_in_channels_is_told_them(own_module: str, factory: str) -> None:
    model = create(f"{own_module}:{factory}", num_classes=4, in_channels=2)
    assert model.state_dict()["weight"].shape == (4, 2, 1, 1)


@pytest.mark.long
@pytest.mark.parametrize("name", ["segmentation:fcn_resnet50", "detection:ssd300_vgg16"])
def test_a_factory_of_torchvision_fetches_no_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", None)
    made = create(f"torchvision.models.{name}", num_classes=3, trusted=())
    assert sum(each.numel() for each in made.parameters()) > 10**6


def test_a_class_is_a_factory_too() -> None:
    model = create("rlkd.models.cifar.resnet:ResNet", num_classes=4, in_channels=1, depth=8)
    assert isinstance(model, ResNet)
    assert model.conv1.weight.shape == (16, 1, 3, 3)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet21", "resnet20"),
        ("ResNet-32x4", "resnet32x4"),
        ("resnet50", "ResNet50"),
        ("mobilenetv2", "MobileNetV2"),
        ("ShuffleNetV1", "ShuffleV1"),
        ("WRN-40-2", "wrn_40_2"),
        ("torchvision:resnet19", "torchvision:resnet18"),
        ("own_networks:plane", "own_networks:plain"),
    ],
)
@pytest.mark.usefixtures("own_module")
def test_an_unknown_name_is_answered_with_the_nearest_and_the_forms(
    name: str, nearest: str
) -> None:
    message = _refusal(name)
    assert f"model '{name}' is unknown; did you mean '{nearest}'" in message
    assert "'torchvision:NAME'" in message
    assert "'timm:NAME'" in message
    assert "'package.module:factory'" in message


def test_a_name_like_no_other_is_answered_with_all_packaged_names() -> None:
    message = _refusal("zzz")
    assert "did you mean" not in message
    assert all(name in message for name in names())


@pytest.mark.parametrize("name", [":factory", "package:", "a b:c", "package:a:b", "../file.py:net"])
def test_a_malformed_name_is_answered_with_the_forms(name: str) -> None:
    assert "not of an allowed form" in _refusal(name)


@pytest.mark.parametrize("module", ["a_module_that_is_not_there", "broken_networks"])
@pytest.mark.usefixtures("own_module")
def test_a_module_that_cannot_be_imported_is_named(module: str) -> None:
    message = _refusal(f"{module}:factory")
    assert f"cannot import '{module}'" in message
    assert "PYTHONPATH" in message


def test_an_attribute_that_is_no_factory_is_refused(own_module: str) -> None:
    assert "is a int" in _refusal(f"{own_module}:a_number")


def test_a_factory_that_returns_no_network_is_refused(own_module: str) -> None:
    assert "returned a int" in _refusal(f"{own_module}:not_a_network")


@pytest.mark.parametrize(
    "name", ["resnet8", "torchvision:resnet18", "timm:resnet18", "own_networks:plain"]
)
@pytest.mark.usefixtures("own_module")
def test_a_keyword_that_the_network_does_not_take_is_named(name: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm", reason="timm is not installed")
    assert "hidden_size" in _refusal(name, hidden_size=3)
