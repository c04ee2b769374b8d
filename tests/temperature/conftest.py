from collections.abc import Generator

import jaxtyping
import numpy as np
import pytest
import torch
from tests.reference.golden_losses import GOLDEN
from torch import Tensor

Logits = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def logits() -> Logits:
    """Student, teacher, target, in float64; the student's carry a gradient."""
    student = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    return student, 3 * torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    with np.load(GOLDEN / "losses.npz") as stored:
        wanted = [name for name in stored.files if name.startswith("lskd_T2/")]
        return {name.removeprefix("lskd_T2/"): torch.from_numpy(stored[name]) for name in wanted}


@pytest.fixture
def unchecked() -> Generator[None]:
    """Call the code as its users do: without the shape checks of the test run."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
