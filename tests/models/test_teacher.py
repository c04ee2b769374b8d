import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import functional as transforms

from rlkd.models import Teacher, create, weights_sha256


class Distiller(nn.Module):
    """A parent that holds a student and a teacher, as the training module does."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.student = nn.Linear(4, 2)
        self.teacher = teacher


@pytest.fixture
def network() -> nn.Module:
    network = create("convnet_tiny", num_classes=5, in_channels=1)
    for _ in range(3):
        network(torch.randn(8, 1, 8, 8))  # running statistics unlike those of one batch
    return network


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(3, 1, 8, 8)


def test_logits_are_the_networks_in_evaluation_mode(
    network: nn.Module, image: torch.Tensor
) -> None:
    expected = copy.deepcopy(network).eval()(image).detach()
    assert torch.equal(Teacher(network)(image), expected)


def test_it_stays_in_evaluation_mode_when_the_parent_trains(
    network: nn.Module, image: torch.Tensor
) -> None:
    parent = Distiller(Teacher(network))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    parent.train()
    parent.teacher.train(mode=True)
    assert parent.student.training
    assert not parent.teacher.training
    assert not any(module.training for module in network.modules())
    parent.teacher(image)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_it_gives_and_takes_no_gradient(network: nn.Module, image: torch.Tensor) -> None:
    parent = Distiller(Teacher(network))
    parent.requires_grad_(True)
    logits = parent.teacher(image.requires_grad_())
    assert not logits.requires_grad
    assert not any(each.requires_grad for each in network.parameters())


def test_logits_can_stand_in_a_loss_that_is_differentiated(
    network: nn.Module, image: torch.Tensor
) -> None:
    scale = torch.ones(5, requires_grad=True)
    (scale * Teacher(network)(image)).sum().backward()
    assert scale.grad is not None


def test_it_is_absent_from_the_parents_parameters_and_checkpoint(network: nn.Module) -> None:
    parent = Distiller(Teacher(network))
    assert list(parent.state_dict()) == ["student.weight", "student.bias"]
    assert len(list(parent.parameters())) == 2
    result = Distiller(Teacher(network)).load_state_dict(parent.state_dict(), strict=True)
    assert result.missing_keys == result.unexpected_keys == []


def test_a_parents_cast_and_move_reach_the_network(network: nn.Module) -> None:
    parent = Distiller(Teacher(network)).to(torch.float64)
    assert all(each.dtype == torch.float64 for each in network.parameters())
    assert parent.teacher(torch.rand(2, 1, 8, 8, dtype=torch.float64)).dtype == torch.float64
    parent.to("meta")
    assert all(each.is_meta for each in (*network.parameters(), *network.buffers()))


def test_the_memory_format_reaches_the_network() -> None:
    network = create("convnet_small", num_classes=5)
    weight = network.get_submodule("layers.1.0").weight
    assert not weight.is_contiguous(memory_format=torch.channels_last)
    teacher = Teacher(network, dtype=torch.bfloat16)
    Distiller(teacher).to(memory_format=torch.channels_last)
    weight = network.get_submodule("layers.1.0").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert weight.dtype == torch.bfloat16


def test_low_precision_gives_float32_logits_near_the_exact(
    network: nn.Module, image: torch.Tensor
) -> None:
    exact = Teacher(copy.deepcopy(network))(image)
    teacher = Teacher(network, dtype=torch.bfloat16)
    assert all(each.dtype == torch.bfloat16 for each in network.parameters())
    logits = teacher(image)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact)
    # bfloat16 keeps 8 bits: 2^-8 of the scale for each of the three layers, with some reserve.
    assert (logits - exact).abs().max() < 8 * 2**-8 * exact.abs().max()


def test_low_precision_outlives_a_parents_cast(network: nn.Module, image: torch.Tensor) -> None:
    parent = Distiller(Teacher(network, dtype=torch.bfloat16))
    expected = parent.teacher(image)
    parent.to(torch.float64)
    assert all(each.dtype == torch.bfloat16 for each in network.parameters())
    assert torch.equal(parent.teacher(image), expected)


def test_logits_are_float32_under_autocast(network: nn.Module, image: torch.Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert Teacher(network)(image).dtype == torch.float32


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_copy_is_a_teacher_of_its_own(
    network: nn.Module, image: torch.Tensor, duplicate: object
) -> None:
    teacher = Teacher(network)
    other = duplicate(teacher)
    expected = teacher(image)
    assert torch.equal(other(image), expected)
    nn.init.zeros_(next(other.network.parameters()))
    assert torch.equal(teacher(image), expected)
    other.to(torch.float64)
    assert next(network.parameters()).dtype == torch.float32
    assert not other.train().network.training


@pytest.mark.long
def test_fusing_folds_batch_norms_and_keeps_the_logits() -> None:
    program = """
import torch
from rlkd.models import Teacher, create
torch.manual_seed(0)
network = create("resnet8", num_classes=10)
for module in network.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
        torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
image = torch.randn(4, 3, 32, 32)
expected = network.eval()(image)
teacher = Teacher(network, fuse=True)
torch.testing.assert_close(teacher(image), expected, rtol=1e-4, atol=1e-4)
operations = [str(node.target) for node in teacher.network.graph.nodes]
assert not any("bn" in each for each in operations), operations
assert not any(each.requires_grad for each in teacher.network.parameters())
"""
    # Apart from this process, whose type checks see the tracer's stand-ins for tensors.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_network_that_cannot_be_traced_is_left_as_it_is() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    network = Branches()
    teacher = Teacher(network, fuse=True)
    assert teacher.network is network


def test_the_hash_of_weights_is_theirs_alone(network: nn.Module) -> None:
    digest = weights_sha256(network)
    assert len(digest) == 64
    assert weights_sha256(copy.deepcopy(network).to(memory_format=torch.channels_last)) == digest
    assert weights_sha256(copy.deepcopy(network).double()) != digest
    with torch.no_grad():
        first = next(network.parameters()).flatten()
        first[0] = torch.nextafter(first[0], first[0] + 1)
    assert weights_sha256(network) != digest


def test_images_are_resized_smoothly_after_their_normalisation(
    network: nn.Module, image: torch.Tensor
) -> None:
    renormalise = (torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 0.25))
    teacher = Teacher(network, renormalise=renormalise, image_size=(12, 6))
    other = transforms.resize(image * 2 + 0.25, [12, 6], antialias=True)
    torch.testing.assert_close(teacher.seen(image), other)
    torch.testing.assert_close(teacher(image), network(other))
    assert teacher.seen(torch.zeros(1, 1, 12, 6)).shape == (1, 1, 12, 6)


def test_a_resized_image_has_the_teachers_precision(network: nn.Module) -> None:
    teacher = Teacher(network, dtype=torch.bfloat16, image_size=(16, 16))
    assert teacher.seen(torch.rand(2, 1, 8, 8)).dtype == torch.bfloat16
    assert teacher(torch.rand(2, 1, 8, 8)).dtype == torch.float32
