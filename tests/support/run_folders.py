"""Run folders as runs leave them, with students that have learnt nothing."""

from pathlib import Path

import torch

from rlkd import models
from rlkd.config.compose import as_yaml, configure
from rlkd.engine.run_folder import RunFolder, as_stored
from rlkd.models import create_detector
from rlkd.text_files import write_text

DIGITS = ("data=digits", "data.limit=48", "trainer.accelerator=cpu", "trainer.threads=1")
SHAPES = (
    *("task=detection", "data.train=6", "data.test=5", "student=fasterrcnn_tiny"),
    *("trainer.accelerator=cpu", "trainer.threads=1"),
)


def classifier_run(
    path: Path, *overrides: str, in_channels: int = 1, scale: float = 3.0
) -> RunFolder:
    """The run of a convnet_tiny that tells ten classes, or two where images have colours."""
    folder = _run(path, [*(DIGITS if in_channels == 1 else ()), *overrides])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.create(
            "convnet_tiny", num_classes=10 if in_channels == 1 else 2, in_channels=in_channels
        )
    for parameter in network.parameters():
        parameter.data *= scale
    models.save_weights(network, folder.student)
    return folder


def detector_run(path: Path, *overrides: str) -> RunFolder:
    """The run of a fasterrcnn_tiny on generated shapes, whose scores are well apart."""
    folder = _run(path, [*SHAPES, *overrides])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = create_detector("fasterrcnn_tiny", num_classes=6)
    for name, parameter in network.named_parameters():
        if "cls_score" in name or "cls_logits" in name:
            parameter.data *= 40
    models.save_weights(network, folder.student)
    return folder


def _run(path: Path, overrides: list[str]) -> RunFolder:
    folder = RunFolder(path)
    write_text(folder.config, as_stored(as_yaml(configure([*overrides, f"output='{path}'"]))))
    return folder
