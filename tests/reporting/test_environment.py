import platform

import torch

from rlkd.reporting import hardware, versions
from rlkd.reporting.results.environment import PACKAGES


def test_versions_name_python_and_the_packages() -> None:
    found = versions()
    assert set(found) == {"python", *PACKAGES}
    assert found["python"] == platform.python_version()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_hardware_is_one_line_with_cores_and_accelerator() -> None:
    words = hardware()
    assert "core" in words
    assert "\n" not in words
    assert torch.cuda.is_available() or "GPU" in words
