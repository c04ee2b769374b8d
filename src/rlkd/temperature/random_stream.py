"""A random generator that follows its owner from device to device and into checkpoints."""

import torch
from torch import Tensor

from rlkd import arguments


class RandomStream:
    """Numbers drawn from a seed, apart from torch's global generator.

    Args:
        seed: where a fresh stream starts, on any device; from 0 to 2^32 - 1.

    Raises:
        UserError: for a seed that is none.
    """

    def __init__(self, seed: int) -> None:
        arguments.seed("seed", seed)
        self.seed = int(seed)
        self._generator: torch.Generator | None = None
        self._restored: Tensor | None = None

    def on(self, device: torch.device) -> torch.Generator:
        """Return the generator on a device.

        A stream starts afresh from its seed where it moves to another device, and where it was
        saved on another kind of device, whose generator's state has another size.
        """
        if self._generator is None or self._generator.device != device:
            self._generator = torch.Generator(device).manual_seed(self.seed)
            restored, self._restored = self._restored, None
            if restored is not None and len(restored) == len(self._generator.get_state()):
                self._generator.set_state(restored)
        return self._generator

    def state(self) -> tuple[int, Tensor | None]:
        """Return the seed and where the stream stands; None if nothing was drawn."""
        drawn = self._restored if self._generator is None else self._generator.get_state()
        return self.seed, drawn

    def restore(self, state: tuple[int, Tensor | None]) -> None:
        """Go on from what `state` returned.

        Raises:
            RuntimeError: if a state of the CPU's generator's size is none of it.
        """
        seed, position = state
        probe = torch.Generator()
        if position is not None and len(position) == len(probe.get_state()):
            probe.set_state(position.to("cpu"))
        self._generator, self.seed = None, int(seed)
        self._restored = None if position is None else position.to("cpu")
