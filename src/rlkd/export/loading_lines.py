"""The lines of Python that load an exported file, without rlkd unless it builds the network."""

from collections.abc import Mapping
from typing import Any


def loading_lines(name: str, facts: Mapping[str, Any]) -> list[str]:
    """Return the lines, for a program in the file's folder that has the images.

    Args:
        name: of the file.
        facts: what is told of it in the JSON beside it.
    """
    detects = facts["task"] == "detection"
    given, asked = ("image", "boxes, labels, scores") if detects else ("images", "(logits,)")
    lines = {
        "torch_export": [
            "import torch",
            f"student = torch.export.load({name!r}).module()",
            "logits = student(images)",
        ],
        "onnx": [
            "import onnxruntime",
            f"student = onnxruntime.InferenceSession({name!r})",
            f"{asked} = student.run(None, {{{given!r}: {given}.numpy()}})",
        ],
    }
    return lines.get(facts["format"]) or [
        *_built(facts),
        f"safetensors.torch.load_model(student, {name!r})",
    ]


def _built(facts: Mapping[str, Any]) -> list[str]:
    """Return what builds the network whose weights a file holds."""
    architecture, classes = str(facts["architecture"]), len(facts["class_names"])
    if facts["task"] == "detection":
        options = "".join(f", {key}={value!r}" for key, value in facts["options"].items())
        return [
            "import rlkd.models, safetensors.torch",
            f"student = rlkd.models.create_detector({architecture!r}, num_classes={classes}"
            f"{options}).eval()",
        ]
    channels = facts["input"]["shape"][1]
    library, _, its_name = architecture.partition(":")
    if library == "timm":
        return [
            "import safetensors.torch, timm",
            f"student = timm.create_model({its_name!r}, num_classes={classes}, "
            f"in_chans={channels}).eval()",
        ]
    if library == "torchvision":
        return [
            "import safetensors.torch, torchvision",
            f"student = torchvision.models.get_model({its_name!r}, num_classes={classes}).eval()",
        ]
    return [
        "import rlkd.models, safetensors.torch",
        f"student = rlkd.models.create({architecture!r}, num_classes={classes}, "
        f"in_channels={channels}).eval()",
    ]
