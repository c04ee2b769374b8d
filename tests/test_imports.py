"""Imports: a plain loop loads torch and little more."""

import json
import subprocess
import sys

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
