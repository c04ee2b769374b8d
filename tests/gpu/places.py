"""Where the same bodies run: on the CPU, on a GPU that is not there, and on one that is."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from tests.gpu import fake_gpu
from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """A device to run on."""

    device: torch.device
    fake: fake_gpu.FakeGpu | None = None
    """Answers for a device that is not there; None for real ones."""

    def put(self, held: Any) -> Any:
        """Return tensors, modules, and records of tensors on the device."""
        if isinstance(held, nn.Module):
            if self.fake is None:
                held.to(self.device)
            else:
                fake_gpu.put(held)
            return held
        if isinstance(held, Tensor):
            return held.to(self.device)
        if is_dataclass(held) and not isinstance(held, type):
            moved = {each.name: self.put(getattr(held, each.name)) for each in fields(held)}
            return replace(held, **moved)
        if isinstance(held, tuple | list):
            return type(held)(map(self.put, held))
        return held

    @contextmanager
    def without_waiting(self) -> Generator[None]:
        """Refuse what waits for the device; on the CPU there is nothing to wait for."""
        if self.fake is not None:
            self.fake.stepping = True
            try:
                yield
            finally:
                self.fake.stepping = False
        elif self.device.type == "cuda":
            torch.cuda.synchronize()
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode(before)
        else:
            yield

    def check(self, *tensors: Tensor) -> None:
        """Raise unless tensors are here, and finite where they have values."""
        for tensor in tensors:
            assert tensor.device.type == self.device.type, tensor.device
            assert fake_gpu.is_fake(tensor) or bool(tensor.isfinite().all())


def require_cuda() -> torch.device:
    """Return the GPU; skip the test where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device here")
    return torch.device("cuda", torch.cuda.current_device())


CPU = pytest.param("cpu")
FAKE = pytest.param("fake")
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


def places(name: str) -> Iterator[Place]:
    """Yield the place of a name, for a fixture."""
    if name == "cuda":
        yield Place(require_cuda())
    elif name == "cpu":
        yield Place(torch.device("cpu"))
    else:
        with fake_gpu.fake_gpu() as mode:
            yield Place(fake_gpu.CUDA, mode)
