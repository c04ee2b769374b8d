"""A random generator that follows its owner from device to device and into checkpoints."""

import torch
from torch import Tensor


class RandomStream:
    """Numbers drawn from a seed, apart from torch's global generator.

    Args:
        seed: where a fresh stream starts, on whatever device it is first used.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator: torch.Generator | None = None
        self._restored: Tensor | None = None

    def on(self, device: torch.device) -> torch.Generator:
        """Return the generator on a device; one that moves to another device starts afresh."""
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self.seed)
            if self._restored is not None:
                self._generator.set_state(self._restored)
                self._restored = None
        return self._generator

    def state(self) -> tuple[int, Tensor | None]:
        """Return the seed and where the stream stands; None if nothing was drawn."""
        drawn = self._restored if self._generator is None else self._generator.get_state()
        return self.seed, drawn

    def restore(self, state: tuple[int, Tensor | None]) -> None:
        """Go on from what `state` returned."""
        self._generator, (self.seed, position) = None, state
        self._restored = None if position is None else position.to("cpu")
