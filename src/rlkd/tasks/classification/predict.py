"""What a classifier says of somebody's images, as JSON and as a table."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from jaxtyping import Float, UInt8
from rich.console import Console
from torch import Tensor, nn

from rlkd.config.options import TrainerOptions
from rlkd.data import ImageSet
from rlkd.data.dataset import Dataset
from rlkd.data.imagenet_names import readable
from rlkd.engine.task import Asked
from rlkd.errors import UserError
from rlkd.models.eval_mode import at_rest
from rlkd.reporting.escaping import csv_text, say
from rlkd.reporting.results.provenance import counted
from rlkd.tasks.classification.data import plain_loader
from rlkd.tasks.prediction_folder import (
    batches,
    claim,
    image_files,
    left_out_words,
    write_results,
)
from rlkd.text_files import write_text

TABLE = "predictions.csv"
_TOP = 5
_AT_ONCE = 64
_SHOWN = 10
"""As many answers are also printed."""

ClassProbability = TypedDict("ClassProbability", {"class": str, "probability": float})
"""One class of an image, and its probability in [0, 1]."""


class ImageClasses(TypedDict):
    """What one image file is taken for."""

    file: str
    """Relative to the folder that was searched, with forward slashes."""
    width: int
    height: int
    classes: list[ClassProbability]
    """The likeliest, five at most, the likeliest first."""


def predict_classes(
    network: nn.Module, dataset: Dataset, options: TrainerOptions, asked: Asked, console: Console
) -> list[ImageClasses]:
    """Write `predictions.json` and `predictions.csv`: the likeliest classes of every image.

    Images are treated as the data's test images are: resized, the middle cut out,
    normalised. ImageNet's classes are called by their names, not their ids.

    Args:
        network: gives the logits of the data's classes.
        dataset: names the classes; has the size, channels and normalisation of images.
        options: give device, precision and layout.
        asked: where the images are and the answers go; a class below the threshold is left out.
        console: where to say what was written.

    Returns:
        What was said of each image, in the order of the paths.

    Raises:
        UserError: if there are no images, one cannot be decoded, or the output folder holds
            something else.
    """
    root = asked.images if asked.images.is_dir() else asked.images.parent
    files, others = image_files(asked.images, asked.output)
    claim(asked.output, keys=ImageClasses.__annotations__.keys())
    network = at_rest(network).to(options.device)
    network = network.to(memory_format=options.memory_format)  # pyright: ignore[reportCallIssue]
    lowest = asked.threshold or 0.0
    names = readable(dataset.class_names)
    predictions: list[ImageClasses] = []
    for chunk in _chunks(files, dataset, skip_unreadable=asked.skip_unreadable):
        probability = _probabilities(network, [each[2] for each in chunk], dataset, options)
        value, row = probability.topk(min(_TOP, len(names)))
        for (file, (height, width), _), values, rows in zip(
            chunk, value.tolist(), row.tolist(), strict=True
        ):
            classes: list[ClassProbability] = [
                {"class": names[index], "probability": each}
                for index, each in zip(rows, values, strict=True)
                if each >= lowest
            ]
            name = file.relative_to(root).as_posix()
            predictions.append(ImageClasses(file=name, width=width, height=height, classes=classes))
    if not predictions:
        raise UserError(
            f"none of the {len(files)} images in {asked.images} can be decoded: replace them"
        )
    write_text(asked.output / TABLE, _table(predictions))
    write_results(asked.output, predictions)
    left_out = left_out_words(files, root, predictions, others)
    _show(predictions, left_out, asked.output, console)
    return predictions


def _chunks(
    files: Sequence[Path], dataset: Dataset, *, skip_unreadable: bool
) -> Iterator[list[tuple[Path, tuple[int, int], UInt8[Tensor, "c h w"]]]]:
    chunk: list[tuple[Path, tuple[int, int], Tensor]] = []
    one_by_one = batches(files, 1, channels=dataset.shape[0], skip_unreadable=skip_unreadable)
    for ((file, image),) in one_by_one:
        height, width = image.shape[1:]
        chunk.append((file, (height, width), dataset.evaluated(image)))
        if len(chunk) == _AT_ONCE:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@torch.no_grad()
def _probabilities(
    network: nn.Module, image: list[Tensor], dataset: Dataset, options: TrainerOptions
) -> Float[Tensor, "images classes"]:
    target = torch.zeros(len(image), dtype=torch.int64)
    images = ImageSet(torch.stack(image), target, dataset.class_names)
    (batch,) = plain_loader(images, dataset, options, batch_size=len(images))
    with options.autocast():
        logits = network(batch.image)
    return logits.float().softmax(dim=1).cpu()


def _table(predictions: Sequence[ImageClasses]) -> str:
    columns = range(max(len(each["classes"]) for each in predictions))
    heads = [[f"class_{rank + 1}", f"probability_{rank + 1}"] for rank in columns]
    rows = [["file", *(each for pair in heads for each in pair)]]
    for one in predictions:
        pairs = [(each["class"], f"{each['probability']:.6f}") for each in one["classes"]]
        rows.append([one["file"], *(each for pair in pairs for each in pair)])
    return csv_text(rows)


def _show(
    predictions: Sequence[ImageClasses], left_out: str, output: Path, console: Console
) -> None:
    if len(predictions) <= _SHOWN:
        for one in predictions:
            likeliest = [
                f"{each['class']} {100 * each['probability']:.1f} %" for each in one["classes"]
            ]
            say(console, f"{one['file']}: {', '.join(likeliest) or 'nothing as probable as that'}")
    say(console, f"{counted(len(predictions), 'image')}{left_out}: everything is in {output}")
