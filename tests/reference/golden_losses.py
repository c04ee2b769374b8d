"""The golden cases of the losses: inputs, value and gradients in float64, made by public code."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent.parent / "golden"
"""Golden values of public code; the JSON beside each file says how it was made."""


@dataclass(frozen=True)
class Case:
    """One loss at one point."""

    inputs: dict[str, Tensor]
    loss: Tensor
    gradients: dict[str, Tensor]

    def check(self, loss: Tensor, inputs: dict[str, Tensor]) -> None:
        """Compare a value and its gradients, by the names of `gradients`, to 1e-6 relative."""
        found = torch.autograd.grad(loss, [inputs[name] for name in self.gradients])
        torch.testing.assert_close(loss, self.loss, rtol=1e-6, atol=0)
        for gradient, expected in zip(found, self.gradients.values(), strict=True):
            floor = 1e-12 * expected.abs().max().item()
            torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=floor)


def golden_case(name: str) -> Case:
    """Read a case; its inputs that have gradients require them."""
    with np.load(GOLDEN / "losses.npz") as stored:
        parts: dict[str, dict[str, Tensor]] = {"in": {}, "grad": {}}
        for part, found in parts.items():
            prefix = f"{name}/{part}/"
            for file in stored.files:
                if file.startswith(prefix):
                    found[file.removeprefix(prefix)] = torch.from_numpy(stored[file])
        loss = torch.from_numpy(stored[f"{name}/loss"])
    for each in parts["grad"]:
        parts["in"][each].requires_grad_()
    return Case(parts["in"], loss, parts["grad"])
