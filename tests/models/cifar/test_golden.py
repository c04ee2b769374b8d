"""All networks of the benchmarks against the public implementation's names, shapes and logits."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlkd.models import create, load_weights
from rlkd.models.cifar import BUILDERS
from rlkd.models.features import Taps

# One of each class, and what makes it small.
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet8": {},
    "ResNet50": {"blocks": (1, 1, 1, 1)},
    "wrn_16_2": {},
    "vgg8": {},
    "MobileNetV2": {},
    "ShuffleV1": {},
    "ShuffleV2": {},
}


@pytest.fixture(scope="module", params=BUILDERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str, golden: Any) -> nn.Module:
    model = create(name, num_classes=100).eval()
    golden.fill(model)
    return model


@pytest.fixture(scope="module")
def called(model: nn.Module, golden: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the logits, and a feature for each name in `taps`."""
    with torch.no_grad():
        logits, by_path = Taps(model, model.taps.values())(golden.image)
    return logits, {key: by_path[path] for key, path in model.taps.items()}


def test_every_network_of_the_benchmarks_is_here(golden: Any) -> None:
    assert list(BUILDERS) == list(golden.models)
    assert len(BUILDERS) == 22


def test_parameters_have_the_names_and_shapes_of_published_checkpoints(
    name: str, model: nn.Module, golden: Any
) -> None:
    expected = golden.models[name]
    shapes = [(key, list(tensor.shape)) for key, tensor in model.state_dict().items()]
    assert shapes == list(expected["state_dict"].items())
    assert sum(each.numel() for each in model.parameters()) == expected["parameters"]


def test_logits_are_those_of_the_public_implementation(
    name: str, called: tuple[Tensor, dict[str, Tensor]], golden: Any
) -> None:
    expected = golden.logits(name)
    # Both carry float32's rounding, which is relative to the largest logit.
    rounding = 3e-6 * expected.abs().max().item()
    torch.testing.assert_close(called[0], expected, rtol=1e-4, atol=rounding)


def test_taps_give_the_features_of_the_public_implementation_in_order(
    name: str, called: tuple[Tensor, dict[str, Tensor]], golden: Any
) -> None:
    features = {key: each for key, each in called[1].items() if key != "final"}
    shapes = [list(feature.shape) for feature in features.values()]
    assert shapes == golden.models[name]["feature_shapes"]
    stages = [f"stage{number}" for number in range(1, len(shapes) - 1)]
    assert list(features) == ["stem", *stages, "embedding"]


def test_the_embedding_is_what_the_classifier_takes(
    model: nn.Module, called: tuple[Tensor, dict[str, Tensor]]
) -> None:
    logits, features = called
    classifier = model.get_submodule(model.taps["embedding"].removesuffix(":input"))
    with torch.no_grad():
        assert torch.equal(classifier(features["embedding"]), logits)


def test_the_mean_of_the_final_map_is_the_embedding(
    name: str, called: tuple[Tensor, dict[str, Tensor]]
) -> None:
    features = called[1]
    final = features.get("final", list(features.values())[-2])
    torch.testing.assert_close(final.mean(dim=(2, 3)), features["embedding"])


# Where the public implementation hands a feature out before an activation.
LINEAR = {
    "wrn": ("stem", "stage1", "stage2", "stage3"),
    "Mob": ("stage1", "stage2", "stage3", "stage4"),
}


def test_features_come_after_the_activation_where_the_public_ones_do(
    name: str, called: tuple[Tensor, dict[str, Tensor]]
) -> None:
    with_negatives = {key for key, feature in called[1].items() if feature.min() < 0}
    assert with_negatives == set(LINEAR.get(name[:3], ()))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_overwrites_a_feature_that_a_tap_has_kept(family: str) -> None:
    model = create(family, num_classes=5, **FAMILIES[family])
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, arguments: Any, output: Tensor) -> None:
        kept.append((output, output.detach().clone()))

    for path in model.taps.values():
        if not path.endswith(":input"):
            model.get_submodule(path).register_forward_hook(keep)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert len(kept) == len(model.taps) - 1
    assert all(torch.equal(feature, as_given) for feature, as_given in kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns(family: str) -> None:
    model = create(family, num_classes=5, **FAMILIES[family])
    model(torch.randn(4, 3, 32, 32)).square().sum().backward()
    still = [key for key, each in model.named_parameters() if not each.grad.abs().sum() > 0]
    # A bias before a batch norm is subtracted again; its gradient is rounding alone.
    assert [key for key in still if not (family == "vgg8" and key.endswith("0.bias"))] == []


@pytest.mark.parametrize("family", [each for each in FAMILIES if each != "ResNet50"])
def test_a_checkpoint_of_the_public_implementation_loads(
    family: str, golden: Any, tmp_path: Path
) -> None:
    names = golden.models[family]["state_dict"]
    weights = {
        key: torch.tensor(7) if key.endswith("num_batches_tracked") else torch.rand(shape)
        for key, shape in names.items()
    }
    torch.save({"epoch": 240, "model": weights}, tmp_path / "published.pth")
    model = create(family, num_classes=100)
    load_weights(model, tmp_path / "published.pth")
    assert all(torch.equal(weights[key], each) for key, each in model.state_dict().items())


@pytest.mark.long
def test_fusing_a_teacher_keeps_the_logits_of_every_family() -> None:
    program = """
import torch
from rlkd.models import Teacher, create
torch.manual_seed(0)
image = torch.randn(2, 3, 32, 32)
for name, options in FAMILIES.items():
    network = create(name, num_classes=10, **options)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    expected = network.eval()(image)
    teacher = Teacher(network, fuse=True)
    assert isinstance(teacher.network, torch.fx.GraphModule), name
    scale = float(expected.abs().max())
    torch.testing.assert_close(teacher(image), expected, rtol=1e-4, atol=1e-4 * scale)
"""
    # Apart from this process, whose type checks see the tracer's stand-ins for tensors.
    command = [sys.executable, "-c", f"FAMILIES = {FAMILIES}\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
