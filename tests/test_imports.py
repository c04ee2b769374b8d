"""Imports: what takes seconds is loaded where it is used."""

import json
import subprocess
import sys

import pytest

from rlkd import models
from rlkd.config.compose import options

LOOP = """
import json, sys
import torch
torch.optim.SGD([torch.zeros(1)])
before = set(sys.modules)
from rlkd import *
RandomTemperature(), TemperatureAgent()
models.create("resnet20", num_classes=10)
names = {each.partition(".")[0] for each in set(sys.modules) - before} - sys.stdlib_module_names
print(json.dumps([each for each in names if not each.startswith("_")]))
"""


def test_a_plain_loop_loads_torch_and_no_more_than_it_needs() -> None:
    done = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True)
    # torch loads some of its own modules, and numpy, when they are used.
    assert set(json.loads(done.stdout)) <= {"rlkd", "jaxtyping", "safetensors", "torch", "numpy"}


REFUSED = """
import sys
from rlkd.cli import main
code = main(sys.argv[1:])
print(code, *sorted({"lightning", "torchmetrics", "torchvision"} & set(sys.modules)))
"""


def refused(*words: str) -> list[str]:
    """Return the exit code of a command, and what it loaded that takes seconds."""
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, *words], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    "words",
    [
        ["distill", "method=kdd"],
        ["train", "trainer.epoch=3"],
        ["train", "student.checkpoint=nowhere.pth"],
        ["compare", "temperature=constant,rlkd", "sede=0,1"],
        ["compare", "study=cifar100_small", "arm=rlkdd"],
        ["compare", "temperature=constant,rlkd", "jobs=many"],
    ],
    ids=" ".join,
)
def test_what_is_mistyped_is_refused_before_what_takes_seconds(words: list[str]) -> None:
    assert refused(*words) == ["2"]


@pytest.mark.parametrize(
    "words",
    [
        ["distill", "data=folder"],
        ["compare", "data=imagenet", "temperature=constant,rlkd"],
        ["distill", "--multirun", "data=cifar10", "seed=0,1"],
    ],
    ids=" ".join,
)
def test_a_missing_folder_is_refused_before_lightning_is_loaded(words: list[str]) -> None:
    # A setting of the data is looked up where it is read, and they read images by torchvision.
    assert refused(*words, "data.root=nowhere") == ["2", "torchvision"]


def test_all_packaged_detectors_are_options() -> None:
    assert set(models.detector_names()) < set(options("student"))
