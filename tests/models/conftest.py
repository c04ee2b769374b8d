import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile
from tests.conftest import RealData
from tests.reference.golden_losses import GOLDEN
from torch import Tensor, nn

from rlkd.models import create


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def teacher_file(real_data: RealData) -> Path:
    return real_data("teachers/resnet56_cifar100.pth")


@pytest.fixture
def resnet8() -> nn.Module:
    return create("resnet8", num_classes=10)


@dataclass(frozen=True)
class Golden:
    """RepDistiller's networks: names, shapes, parameter counts, and logits for known weights."""

    models: dict[str, dict[str, Any]]
    arrays: NpzFile

    @property
    def image(self) -> Tensor:
        return torch.from_numpy(self.arrays["input"])

    def logits(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    @staticmethod
    def fill(model: nn.Module) -> None:
        """Give the weights of the recipe in cifar_models.json."""
        state = model.state_dict()
        for key, tensor in state.items():
            if not tensor.is_floating_point():
                continue
            random = np.random.RandomState(zlib.crc32(key.encode()))
            shape = tuple(tensor.shape)
            if key.endswith("running_var"):
                value = np.ones(shape)
            elif key.endswith("running_mean"):
                value = np.zeros(shape)
            elif len(shape) == 1 and key.endswith("weight"):
                value = 1 + 0.1 * random.standard_normal(shape)
            elif len(shape) == 1:
                value = 0.1 * random.standard_normal(shape)
            else:
                value = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
            state[key] = torch.from_numpy(value.astype(np.float32))
        model.load_state_dict(state)


@pytest.fixture(scope="session")
def golden() -> Golden:
    models = json.loads((GOLDEN / "cifar_models.json").read_text())["models"]
    return Golden(models=models, arrays=np.load(GOLDEN / "cifar_models.npz"))
