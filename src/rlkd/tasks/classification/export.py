"""A classifier made ready to be exported: its formats, what they are compared on, and its facts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from rlkd.config.options import TrainerOptions
from rlkd.data import ImageSet, first_readable
from rlkd.data.dataset import Dataset
from rlkd.data.imagenet_names import readable
from rlkd.data.transforms.resized_crop import frame
from rlkd.engine.task import Answer, Exportable
from rlkd.export.formats import Onnx, Safetensors, TorchExport
from rlkd.models.eval_mode import at_rest
from rlkd.tasks.classification.data import plain_loader

_IMAGES = 8


def exportable_classifier(
    name: str, make: Callable[[Path | None], nn.Module], dataset: Dataset, options: TrainerOptions
) -> Exportable:
    """Make a classifier ready; its files are compared on batches of two, one and five test images.

    Random pixels take their place where the data have none.

    Args:
        name: of the network.
        make: builds it; with a file's weights, or where there is none with those configured.
        dataset: has the classes, and the normalisation of images.
        options: of the run.
    """
    network = at_rest(make(None))
    test = dataset.test if len(dataset.test) else _noise(dataset.shape, dataset.class_names)
    rows = first_readable(test, _IMAGES)
    rows = rows[torch.arange(_IMAGES) % len(rows)]
    on_cpu = replace(options, accelerator="cpu", channels_last=False)
    loader = plain_loader(test.select(rows), dataset, on_cpu, batch_size=_IMAGES)
    images = next(iter(loader)).image.cpu()
    example = images[:2].contiguous()
    channels, height, width = images.shape[1:]
    colours = "grey" if channels == 1 else "RGB"
    return Exportable(
        answer=_logits(network),
        inputs=[example, images[2:3].contiguous(), images[3:].contiguous()],
        formats={
            "safetensors": Safetensors(network, lambda path: at_rest(make(path)), _logits),
            "onnx": Onnx(network, example),
            "torch_export": TorchExport(network, example),
        },
        facts={
            "task": "classification",
            "architecture": name,
            "class_names": list(dataset.class_names),
            **_called(dataset.class_names),
            **({"images": {"test on": len(dataset.test)}} if len(dataset.test) else {}),
            "input": {
                "shape": ["batch", channels, height, width],
                "values": f"float32: {colours} pixels in [0, 1], of each channel minus mean, "
                f"divided by std; {dataset.evaluation}",
                "mean": list(dataset.mean),
                "std": list(dataset.std),
                **_frame(dataset),
            },
            "output": "logits: a row an image, a column a class in the order of class_names",
        },
    )


def _noise(shape: Sequence[int], class_names: Sequence[str]) -> ImageSet:
    pixels = torch.randint(
        256, (_IMAGES, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return ImageSet(pixels, torch.zeros(_IMAGES, dtype=torch.int64), tuple(class_names))


def _frame(dataset: Dataset) -> dict[str, list[int]]:
    """Return what an image is resized to cover; nothing where data have a way of their own."""
    if type(dataset) is not Dataset:
        return {}
    return {"frame": list(frame(dataset.shape[1:], dataset.resize))}


def _called(class_names: Sequence[str]) -> dict[str, list[str]]:
    """Return what people call the classes, where that differs from their names."""
    names = readable(class_names)
    return {} if names == tuple(class_names) else {"readable_names": list(names)}


def _logits(network: nn.Module) -> Answer:
    @torch.no_grad()
    def answer(images: Tensor) -> Sequence[Tensor]:
        return [network(images)]

    return answer
