from collections.abc import Generator

import jaxtyping
import numpy as np
import pytest
import torch
from tests.reference.golden_losses import GOLDEN
from torch import Tensor


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "losses.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture
def unchecked() -> Generator[None]:
    """Call the code as its users do: without the shape checks of the test run."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
