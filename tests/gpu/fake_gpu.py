"""A GPU that is not there: what is put on it has shapes, types and a device, and no values.

Tensors on the CPU stay real. Whatever is asked of a tensor on the device is answered by torch's
`FakeTensorMode`, which knows what real kernels refuse: operands on two devices, values and shapes
that only the device knows. In a training step, copies between host and device that wait are refused
as well. There is no autograd engine for such a device: `backward` fills gradients with zeros.
"""

import warnings
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlkd.data import ImageSet

CUDA = torch.device("cuda:0")


class WaitError(AssertionError):
    """A training step would have waited for the device."""


class FakeGpu(TorchDispatchMode):
    """Runs what concerns the device in a fake mode, and everything else as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.stepping = False
        """Whether to refuse what waits for the device."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        tensors = [each for each in leaves if isinstance(each, Tensor)]
        devices = {each.device.type for each in tensors}
        made_on = kwargs.get("device")
        made_on = None if made_on is None else torch.device(made_on).type
        drawn = [each for each in leaves if isinstance(each, _Generator)]
        for each in drawn:
            if (each._cdata in FakeGenerator.on_gpu) != ("cuda" in {*devices, made_on}):
                raise RuntimeError(f"{func}: the generator is on another device")
        if made_on != "cuda" and not any(map(is_fake, tensors)):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        places = devices | ({made_on} if made_on and name == "_to_copy" else set())
        if len(places) > 1:
            self._refuse_two_devices(func, tensors, name, ahead=_copies_ahead(name, args, kwargs))
        with self.fake:
            return func(*args, **(kwargs | ({"generator": None} if drawn else {})))

    def _refuse_two_devices(
        self, func: Any, tensors: list[Tensor], name: str, *, ahead: bool
    ) -> None:
        """Refuse what a real device refuses, and in a step what the host would wait for."""
        on_host = [each for each in tensors if each.device.type == "cpu"]
        takes_numbers = torch.Tag.pointwise in func.tags and not any(e.dim() for e in on_host)
        if not (name in _ACROSS or takes_numbers):
            raise RuntimeError(f"{func}: tensors on more than one device")
        if self.stepping and not ahead:
            raise WaitError(f"{func} between host and device")


_ACROSS = {"_to_copy", "copy_", "index", "index_put", "index_put_", "_index_put_impl_"}
"""What takes tensors of the host and of a device together."""


def _copies_ahead(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this is a copy to the device that the host does not wait for."""
    if name == "copy_":
        waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        return not waits and args[1].device.type == "cpu"
    return name == "_to_copy" and bool(kwargs.get("non_blocking")) and args[0].device.type == "cpu"


_Generator = torch.Generator


class FakeGenerator(_Generator):
    """A generator on the CPU that says it is on another device."""

    on_gpu: ClassVar[set[int]] = set()
    """Which are on the GPU, by what torch calls them when they reach a kernel."""
    place: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> "FakeGenerator":
        made = super().__new__(cls, "cpu")
        made.place = torch.device(device)
        if made.place.type == "cuda":
            cls.on_gpu.add(made._cdata)
        else:
            cls.on_gpu.discard(made._cdata)
        return made

    @property
    def device(self) -> torch.device:
        """Where it says that it is."""
        return self.place


@contextmanager
def fake_gpu() -> Generator[FakeGpu]:
    """Put a GPU into the machine that knows no values."""
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CUDA is not available")  # of torch.autocast
        if not torch.cuda.is_available():
            torch._C._ensureCUDADeviceGuardSet()
            stack.enter_context(patch.object(torch.cuda, "_lazy_init", lambda: None))
        lifted = torch._C._only_lift_cpu_tensors()
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device) copies by _to_copy
        stack.callback(FakeGenerator.on_gpu.clear)
        stack.enter_context(patch.object(torch, "Generator", FakeGenerator))
        stack.enter_context(patch.object(Tensor, "backward", fill_gradients))
        # Set up once, not in a step: labels are looked at on the device.
        stack.enter_context(patch.object(ImageSet, "__post_init__", lambda _: None))
        stack.enter_context(patch("rlkd.data.loaders.loader.check_partners", lambda *_: None))
        # Nothing to lay out: there is no memory.
        stack.enter_context(patch.object(nn.LSTM, "flatten_parameters", lambda _: None))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))  # it asks for the hardware
        yield stack.enter_context(FakeGpu())


def fill_gradients(loss: Tensor, *_: Any, **__: Any) -> None:
    """Give every parameter that a loss depends on a gradient of zeros."""
    todo: list[Any] = [loss.grad_fn]
    seen: set[Any] = {None}
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            if hasattr(node, "variable"):
                node.variable.grad = torch.zeros_like(node.variable)
            todo += [each for each, _ in node.next_functions]


def put(module: nn.Module) -> None:
    """Put a module on the fake GPU; optimisers within it follow its new parameters."""
    before = dict(module.named_parameters())
    module.to(CUDA)
    now = {id(before[name]): each for name, each in module.named_parameters()}
    for optimizer in {id(each): each for each in _optimizers(module)}.values():
        for group in optimizer.param_groups:
            group["params"] = [now[id(each)] for each in group["params"]]
        for old in list(optimizer.state):
            optimizer.state[now[id(old)]] = optimizer.state.pop(old)


def _optimizers(module: nn.Module) -> Iterable[torch.optim.Optimizer]:
    for each in module.modules():
        for held in vars(each).values():
            for maybe in (held, getattr(held, "optimizer", None)):
                if isinstance(maybe, torch.optim.Optimizer):
                    yield maybe


def is_fake(tensor: Tensor) -> bool:
    """Whether a tensor is on the GPU that is not there."""
    return isinstance(tensor, FakeTensor)
