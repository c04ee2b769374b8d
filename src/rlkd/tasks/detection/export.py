"""A detector made ready to be exported: its formats, what they are compared on, and its facts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.data.detection.coco_set import CocoSet
from rlkd.engine.task import Answer, Exportable
from rlkd.export.formats import DetectorOnnx, Safetensors
from rlkd.tasks.detection.evaluate import as_input

_IMAGES = 4


def exportable_detector(
    name: str, options: dict[str, Any], make: Callable[[Path | None], nn.Module], images: CocoSet
) -> Exportable:
    """Make a detector ready; its files are compared on test images, one of them enlarged.

    Args:
        name: of the network.
        options: that it is built with where a file's weights are loaded.
        make: builds it; with a file's weights, or where there is none with those configured.
        images: the test set.
    """
    network = make(None).eval()
    inputs = [as_input(images.image(row), "cpu") for row in range(min(_IMAGES, len(images)))]
    larger = F.interpolate(inputs[0][None], scale_factor=1.5, mode="bilinear")[0]
    return Exportable(
        answer=_found(network),
        inputs=[*inputs, larger],
        formats={
            "safetensors": Safetensors(network, lambda path: make(path).eval(), _found),
            "onnx": _AlignedOnnx(network, inputs[0]),
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


def _found(network: nn.Module) -> Answer:
    @torch.no_grad()
    def answer(image: Tensor) -> Sequence[Tensor]:
        (found,) = network([image])
        return _in_sides(image, [found["boxes"], found["labels"], found["scores"]])

    return answer


@dataclass(frozen=True)
class _AlignedOnnx(DetectorOnnx):
    """Answers in the order of the detector's own."""

    def read(self, path: Path) -> Answer:
        own, read = _found(self.network), super().read(path)
        return lambda image: _aligned(own(image), _in_sides(image, read(image)))


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
