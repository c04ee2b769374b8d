"""The GPU that is not there refuses what a real one refuses."""

from collections.abc import Callable, Iterator

import pytest
import torch
from tests.gpu import fake_gpu
from tests.gpu.places import Place, places
from torch import Tensor, nn


@pytest.fixture
def place() -> Iterator[Place]:
    yield from places("fake")


WRONG_DEVICE: dict[str, Callable[[Tensor], object]] = {
    "an operand made without a device": lambda x: x + torch.ones(4),
    "one of no dimension in a stack": lambda x: torch.stack((x.sum(), torch.zeros(()))),
    "a branch of torch.where": lambda x: torch.where(x > 0, x, torch.zeros(4)),
    "rows written into": lambda x: torch.zeros(4, 4).index_copy_(0, torch.arange(4), x),
    "a network that was left behind": nn.Linear(4, 2),
    "a generator of another device": lambda x: torch.randn(
        4, generator=torch.Generator(), device=x.device
    ),
    "a generator left on the GPU": lambda x: torch.randn(
        4, generator=torch.Generator(x.device), device="cpu"
    ),
}
WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "a condition": lambda x: bool((x > 0).any()),
    "a mask as an index": lambda x: x[x > 0],
    "nonzero": lambda x: x.nonzero(),
    "equal": lambda x: torch.equal(x, x.clone()),
    "tolist": lambda x: x.tolist(),
    "back to the host": lambda x: x.cpu(),
    "into a host's tensor": lambda x: torch.zeros(4, 4).copy_(x),
    "rows chosen on the host": lambda x: x[torch.tensor([0, 2])],
    "a constant copied there": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a number's tensor": lambda x: x * torch.tensor(2.0),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
}
FINE: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: torch.where(x > 0, x, 0.0).softmax(dim=1) @ x,
    "made there": lambda x: x + torch.ones(4, device=x.device),
    "rows chosen there": lambda x: x[torch.arange(2, device=x.device)],
    "copied ahead": lambda x: x + torch.ones(4).to(x.device, non_blocking=True),
    "drawn there": lambda x: (
        x + torch.randn(4, generator=torch.Generator(x.device), device=x.device)
    ),
    "planned on the host": lambda x: x[: int(torch.tensor([3, 1]).max())],
}


@pytest.mark.parametrize("way", WRONG_DEVICE)
def test_two_devices_in_one_operation_are_refused(place: Place, way: str) -> None:
    x = place.put(torch.ones(4, 4))
    with pytest.raises(RuntimeError, match=r"device|generator"):
        WRONG_DEVICE[way](x)


@pytest.mark.parametrize("way", WAITS)
def test_a_step_that_waits_is_refused(place: Place, way: str) -> None:
    x = place.put(torch.ones(4, 4))
    refusals = (fake_gpu.WaitError, NotImplementedError, RuntimeError)
    with place.without_waiting(), pytest.raises(refusals, match=r"between|aten\.|device"):
        WAITS[way](x)


@pytest.mark.parametrize("way", FINE)
def test_what_a_gpu_does_without_waiting_is_let_be(place: Place, way: str) -> None:
    x = place.put(torch.ones(4, 4))
    with place.without_waiting():
        place.check(FINE[way](x))


def test_weights_move_and_their_optimiser_steps(place: Place) -> None:
    class Learns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)
            self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.1, momentum=0.9)

    module, x = place.put(Learns()), place.put(torch.ones(3, 4))
    with place.without_waiting():
        module.layer(x).sum().backward()
        module.optimizer.step()
    place.check(module.layer.weight, module.layer.weight.grad)
    assert {each.device.type for each in module.optimizer.param_groups[0]["params"]} == {"cuda"}


def test_afterwards_the_machine_is_as_it_was() -> None:
    made = torch.Generator, Tensor.backward
    for place in places("fake"):
        place.put(torch.ones(2))
    assert (torch.Generator, Tensor.backward) == made
    assert type(torch.ones(2)) is Tensor
    assert not torch._C._only_lift_cpu_tensors()
