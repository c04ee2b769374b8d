import os
from collections.abc import Generator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    folder = os.environ.get("RLKD_DATA")
    if not folder:
        pytest.skip("RLKD_DATA is not set: it names the folder of the shared data")
    with np.load(Path(folder).parent / "reference" / "losses.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


@pytest.fixture
def unchecked() -> Generator[None]:
    """Call the code as its users do: without the shape checks of the test run."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
