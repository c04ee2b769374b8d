"""Students made ready to be written: what files are compared on, and what their users are told."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.config.options import TrainerOptions
from rlkd.data import first_readable
from rlkd.data.datasets import Dataset
from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.imagenet_names import readable
from rlkd.engine.task import Answer, Exportable
from rlkd.export.formats import (
    write_detector_onnx,
    write_onnx,
    write_safetensors,
    write_torch_export,
)
from rlkd.models.eval_mode import at_rest
from rlkd.tasks.classification.data import plain_loader
from rlkd.tasks.detection.evaluate import as_input

_IMAGES = 8
_DETECTOR_IMAGES = 4


def exportable_classifier(
    name: str, make: Callable[[Path | None], nn.Module], dataset: Dataset, options: TrainerOptions
) -> Exportable:
    """Make a classifier ready; its files are compared on batches of two, one and five test images.

    Args:
        name: of the network.
        make: builds it; with a file's weights, or where there is none with those configured.
        dataset: has the classes, and the normalisation of images.
        options: of the run.
    """
    network = at_rest(make(None))
    rows = first_readable(dataset.test, _IMAGES)
    rows = rows[torch.arange(_IMAGES) % len(rows)]
    on_cpu = replace(options, accelerator="cpu", channels_last=False)
    loader = plain_loader(dataset.test.select(rows), dataset, on_cpu, batch_size=_IMAGES)
    images = next(iter(loader)).image.cpu()
    example = images[:2].contiguous()
    channels, height, width = images.shape[1:]
    colours = "grey" if channels == 1 else "RGB"
    return Exportable(
        answer=_logits(network),
        inputs=[example, images[2:3].contiguous(), images[3:].contiguous()],
        formats={
            "safetensors": write_safetensors(network, lambda path: at_rest(make(path)), _logits),
            "onnx": write_onnx(network, example),
            "torch_export": write_torch_export(network, example),
        },
        facts={
            "task": "classification",
            "architecture": name,
            "class_names": list(dataset.class_names),
            **_called(dataset.class_names),
            "images": {"train on": len(dataset.train), "test on": len(dataset.test)},
            "input": {
                "shape": ["batch", channels, height, width],
                "values": f"float32: {colours} pixels in [0, 1], of each channel minus mean, "
                f"divided by std; {dataset.evaluation}",
                "mean": list(dataset.mean),
                "std": list(dataset.std),
            },
            "output": "logits: a row an image, a column a class in the order of class_names",
        },
    )


def exportable_detector(
    name: str, options: dict[str, Any], make: Callable[[Path | None], nn.Module], images: CocoSet
) -> Exportable:
    """Make a detector ready; its files are compared on test images, one of them enlarged.

    Args:
        name: of the network.
        options: that it is built with.
        make: builds it; with a file's weights, or where there is none with those configured.
        images: the test set.
    """
    network = make(None).eval()
    inputs = [
        as_input(images.image(row), "cpu") for row in range(min(_DETECTOR_IMAGES, len(images)))
    ]
    larger = F.interpolate(inputs[0][None], scale_factor=1.5, mode="bilinear")[0]
    return Exportable(
        answer=_found(network),
        inputs=[*inputs, larger],
        formats={
            "safetensors": write_safetensors(network, lambda path: make(path).eval(), _found),
            "onnx": _compared(write_detector_onnx(network, inputs[0]), _found(network)),
        },
        facts={
            "task": "detection",
            "architecture": name,
            "options": options,
            "class_names": list(images.output_names),
            "category_ids": [0, *images.category_ids],
            "input": {
                "shape": [3, "height", "width"],
                "values": "float32: RGB pixels in [0, 1]; resized and normalised within",
            },
            "output": "boxes: corners x1, y1, x2, y2 in pixels of the image; labels: indices into "
            "class_names; scores in [0, 1], descending",
        },
        refused={
            "torch_export": "torch.export does not get through torchvision's choice of proposals, "
            "whose number depends on the image"
        },
    )


def _called(class_names: Sequence[str]) -> dict[str, list[str]]:
    """Return what people call the classes, where that differs from their names."""
    names = readable(class_names)
    return {} if names == tuple(class_names) else {"readable_names": list(names)}


def _logits(network: nn.Module) -> Answer:
    @torch.no_grad()
    def answer(images: Tensor) -> Sequence[Tensor]:
        return [network(images)]

    return answer


def _found(network: nn.Module) -> Answer:
    @torch.no_grad()
    def answer(image: Tensor) -> Sequence[Tensor]:
        (found,) = network([image])
        return _in_sides(image, [found["boxes"], found["labels"], found["scores"]])

    return answer


def _compared(write: Callable[[Path], Answer], own: Answer) -> Callable[[Path], Answer]:
    def writing(path: Path) -> Answer:
        read = write(path)
        return lambda image: _aligned(own(image), _in_sides(image, read(image)))

    return writing


def _aligned(own: Sequence[Tensor], read: Sequence[Tensor]) -> Sequence[Tensor]:
    """Put what is found in the order of one's own: sorting by score leaves that of ties open."""
    one, other = (torch.cat([each[0], *(c[:, None] for c in each[1:])], 1) for each in (own, read))
    if one.shape != other.shape or not other.isfinite().all():
        return read
    _, order = linear_sum_assignment(torch.cdist(one, other, p=float("inf")))
    return [each[torch.from_numpy(order)] for each in read]


def _in_sides(image: Tensor, found: Sequence[Tensor]) -> Sequence[Tensor]:
    """Measure boxes in the image's longer side: in pixels, float32 is off by 1e-4 at a thousand."""
    boxes, labels, scores = found
    return [boxes / max(image.shape[1:]), labels, scores]
