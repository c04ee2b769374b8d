"""Every packaged source, as a run composes and builds it."""

import pytest
import torch

from rlkd.config.compose import as_yaml, configure, options
from rlkd.engine import build
from rlkd.losses import kd
from rlkd.temperature import TEMPERATURE_FLOOR, GlobalCTKD, ScheduledTemperature

pytestmark = pytest.mark.usefixtures("unchecked")

LEARNT_OR_DRAWN = {"look_ahead", "random", "rlkd", "rlkd_paper"}
"""Those that need more than a batch: tests/agent and tests/engine run them."""
NAMES = [
    "adakd",
    "confidence",
    "constant",
    "cosine",
    "ctkd",
    "ctkd_instance",
    "dtkd",
    "entropy",
    "linear",
    "max_logit",
    "normkd",
    "recorded_mean",
    "standardised",
]


def test_no_packaged_source_is_left_out() -> None:
    assert set(options("temperature")) == {*NAMES, *LEARNT_OR_DRAWN}


@pytest.mark.parametrize("name", NAMES)
def test_every_packaged_source_composes_builds_and_sets_temperatures(name: str) -> None:
    config = configure([f"temperature={name}", "trainer.epochs=6"])
    assert "???" not in as_yaml(config)
    source = build.temperature(config, num_classes=100)
    source.start_epoch(6)
    student, teacher = torch.randn(8, 100, requires_grad=True), 4 * torch.randn(8, 100)
    temperatures = source(student, teacher, torch.arange(8))
    loss = kd(student, teacher, temperatures)
    loss.backward()
    assert torch.isfinite(loss)
    assert temperatures.student.shape == temperatures.teacher.shape == (8,)
    assert min(temperatures.student.min(), temperatures.teacher.min()) >= TEMPERATURE_FLOOR
    assert all(each.grad is not None for each in source.trained_parameters())


@pytest.mark.parametrize(("epochs", "lambda_epochs"), [(240, 10), (24, 1), (3, 1)])
def test_the_curriculum_keeps_its_share_of_a_run(epochs: int, lambda_epochs: int) -> None:
    config = configure(["temperature=ctkd", f"trainer.epochs={epochs}"])
    source = build.temperature(config, num_classes=100)
    assert isinstance(source, GlobalCTKD)
    assert source.lambda_epochs == lambda_epochs


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_schedule_ends_with_the_run(name: str) -> None:
    config = configure([f"temperature={name}", "trainer.epochs=7"])
    source = build.temperature(config, num_classes=100)
    assert isinstance(source, ScheduledTemperature)
    assert source.epochs == 7
