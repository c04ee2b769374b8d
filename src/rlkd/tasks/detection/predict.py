"""What a detector finds in somebody's images, as JSON and as pictures with boxes."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict, cast

import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes

from rlkd.data.detection.coco_set import CocoSet
from rlkd.errors import UserError
from rlkd.reporting.escaping import say
from rlkd.reporting.predictions import DrawnBox, PredictionRow
from rlkd.reporting.results.provenance import counted
from rlkd.tasks.detection.evaluate import Found, as_input, find
from rlkd.tasks.prediction_folder import (
    batches,
    claim,
    image_files,
    left_out_words,
    picture_path,
    save_picture,
    write_results,
)

_COLORS = (
    "#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4",
    "#42d4f4", "#f032e6", "#bfef45", "#fabed4", "#469990", "#9a6324",
)  # fmt: skip
_DARK = ("#e6194b", "#4363d8", "#911eb4", "#9a6324", "#469990")  # white letters can be read on


PredictedObject = TypedDict(
    "PredictedObject", {"box": list[float], "class": str, "category_id": int, "score": float}
)
"""One object found in an image: corners x1, y1, x2, y2 in pixels, and a score in [0, 1]."""


class ImagePrediction(TypedDict):
    """What is found in one image file."""

    file: str
    """Relative to the folder that was searched, with forward slashes."""
    width: int
    height: int
    detections: list[PredictedObject]


def predict_images(
    detector: nn.Module,
    source: str | Path,
    *,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    output: str | Path,
    device: torch.device | str,
    console: Console,
    threshold: float = 0.5,
    batch_size: int = 1,
    skip_unreadable: bool = False,
    autocast: torch.dtype | None = None,
) -> list[ImagePrediction]:
    """Write `predictions.json`, and under `pictures` every image with its boxes drawn.

    A picture has the name of its image, in the same subfolder; what is neither JPEG nor PNG gets
    `.png` appended. Images are turned upright first, as EXIF says, and boxes are in that frame.
    Results of an earlier prediction in `output` are replaced, one by one.

    Args:
        detector: a detector of torchvision's kind, on `device`.
        source: an image file, or a folder that is searched with its subfolders; hidden files are
            left out, and so are the pictures in `output`.
        class_names: of the labels, from label 1.
        category_ids: the data's numbers for them, in the same order; other labels are dropped.
        output: a folder that is new, empty, or of an earlier prediction.
        device: where the detector is.
        console: where to say what was written.
        threshold: the lowest score that counts, in [0, 1].
        batch_size: images at once.
        skip_unreadable: leave out and count the files that cannot be decoded.
        autocast: the type to compute in; None for that of the weights.

    Returns:
        What was found in each image, in the order of the paths.

    Raises:
        UserError: if there are no images, one cannot be decoded, an option is out of its range, or
            the output folder holds something else.
    """
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold={threshold}: give a score from 0 to 1")
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: give 1 or more images")
    source, output = Path(source).expanduser(), Path(output).expanduser()
    root = source if source.is_dir() else source.parent
    files, others = image_files(source, output)
    claim(output, keys=ImagePrediction.__annotations__.keys())
    categories = dict(enumerate(zip(class_names, category_ids, strict=True), start=1))
    predictions: list[ImagePrediction] = []
    for batch in batches(files, batch_size, skip_unreadable=skip_unreadable):
        scaled = [as_input(image, device) for _, image in batch]
        for (file, image), found in zip(
            batch, find(detector, scaled, autocast=autocast), strict=True
        ):
            name = file.relative_to(root)
            objects = _objects(found, categories, threshold)
            save_picture(draw(image, objects), picture_path(output, name))
            height, width = image.shape[1:]
            predictions.append(
                ImagePrediction(
                    file=name.as_posix(), width=width, height=height, detections=objects
                )
            )
    if not predictions:
        raise UserError(f"none of the {len(files)} images in {source} can be decoded: replace them")
    write_results(output, predictions)
    total = sum(len(each["detections"]) for each in predictions)
    words = f"{counted(total, 'object')} of score {threshold:g} or more in "
    words += counted(len(predictions), "image")
    words += left_out_words(files, root, predictions, others)
    say(console, f"{words}: everything is in {output}")
    return predictions


def prediction_rows(
    teacher: nn.Module | None,
    student: nn.Module,
    images: CocoSet,
    rows: Iterable[int],
    *,
    device: torch.device | str,
    threshold: float = 0.5,
    autocast: torch.dtype | None = None,
) -> list[PredictionRow]:
    """Return images with what teacher and student find and what is there, for a page.

    Args:
        teacher: a detector on `device`; None for a page without one.
        student: another.
        images: the set.
        rows: which of its images.
        device: where the detectors are.
        threshold: the lowest score that counts, in [0, 1].
        autocast: the type to compute in; None for that of the weights.
    """
    names = {
        label: images.categories[category]
        for label, category in enumerate(images.category_ids, start=1)
        if category in images.categories
    }

    def drawn(detector: nn.Module, image: Tensor) -> list[DrawnBox]:
        (found,) = find(detector, [as_input(image, device)], autocast=autocast)
        sure = found.score >= threshold
        return _drawn(found.box[sure], found.label[sure], names, found.score[sure])

    made: list[PredictionRow] = []
    for row in rows:
        image, truth = images.image(row), images.boxes(row)
        file = io.BytesIO()
        to_pil_image(image).save(file, "JPEG", quality=92)
        height, width = image.shape[1:]
        made.append(
            PredictionRow(
                image=file.getvalue(),
                width=width,
                height=height,
                teacher=None if teacher is None else drawn(teacher, image),
                student=drawn(student, image),
                truth=_drawn(truth.box, truth.label, names),
                name=images.file_name(row),
            )
        )
    return made


def draw(image: UInt8[Tensor, "3 height width"], objects: Sequence[PredictedObject]) -> Image.Image:
    """Return an image with the box, class and score of every object, the surest on top."""
    if not objects:
        return to_pil_image(image)
    ordered = sorted(objects, key=lambda each: each["score"])
    colors = [_COLORS[each["category_id"] % len(_COLORS)] for each in ordered]
    longest = max(image.shape[1:])
    boxed = draw_bounding_boxes(
        image,
        torch.tensor([each["box"] for each in ordered]),
        colors=cast("list[str | tuple[int, int, int]]", colors),
        width=max(2, round(longest / 320)),
    )
    picture = to_pil_image(boxed)
    pen = ImageDraw.Draw(picture)
    # torchvision's own labels keep one size however large the image.
    font = ImageFont.load_default(max(10.0, longest / 50))
    for each, color in zip(ordered, colors, strict=True):
        # Pillow measures no text of several lines.
        text = f"{' '.join(each['class'].split())} {each['score']:.2f}"
        left, top = each["box"][:2]
        height = pen.textbbox((0, 0), text, font, anchor="lt")[3] + 2
        corner = (left + 1, top - height if top >= height else top + 1)
        pen.rectangle(pen.textbbox(corner, text, font, anchor="lt"), fill=color)
        pen.text(corner, text, "white" if color in _DARK else "black", font, anchor="lt")
    return picture


def _objects(
    found: Found, categories: dict[int, tuple[str, int]], threshold: float
) -> list[PredictedObject]:
    objects: list[PredictedObject] = []
    for box, label, score in zip(
        found.box.tolist(), found.label.tolist(), found.score.tolist(), strict=True
    ):
        if label in categories and score >= threshold:
            name, category = categories[label]
            objects.append({"box": box, "class": name, "category_id": category, "score": score})
    return objects


def _drawn(
    box: Float[Tensor, "objects 4"],
    label: Int[Tensor, " objects"],
    names: dict[int, str],
    score: Float[Tensor, " objects"] | None = None,
) -> list[DrawnBox]:
    scores = [None] * len(box) if score is None else score.tolist()
    return [
        DrawnBox((x1, y1, x2, y2), names[each], sure)
        for (x1, y1, x2, y2), each, sure in zip(box.tolist(), label.tolist(), scores, strict=True)
        if each in names
    ]
