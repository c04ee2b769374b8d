"""The store of the teacher's logits that a run reads from."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from rlkd.config.compose import choice
from rlkd.config.options import TrainerOptions
from rlkd.data import BatchLoader
from rlkd.engine.normalisation import resolution
from rlkd.errors import UserError
from rlkd.models import Teacher
from rlkd.tasks.classification.data import Sets
from rlkd.teacher_cache.store import Identity
from rlkd.teacher_cache.stored import StoredTeacher, check_dtype, stored_teacher


def stored_for(
    config: DictConfig, sets: Sets, options: TrainerOptions, teacher: Teacher, loader: BatchLoader
) -> StoredTeacher:
    """Open the store that `teacher.cache` names, and compare some of it with the living teacher.

    Args:
        config: the whole configuration.
        sets: the images.
        options: give precision.
        teacher: where its weights are.
        loader: of the training images.

    Raises:
        UserError: if the store is of something else, damaged or impossible, or images have no end
            of views.
    """
    node, dataset = config.teacher, sets.dataset
    given, dtype = node.get("cache"), node.get("cache_dtype") or "float16"
    check_dtype(dtype)
    if loader.views is None:
        raise UserError(
            "teacher.cache keeps a row for each view of an image, and of these images each epoch "
            "has new ones: give data.views=8, say, or leave teacher.cache out"
        )

    def live(image: Tensor) -> Tensor:
        device = next(teacher.network.parameters()).device
        with options.autocast():
            return teacher(image.to(device))

    identity: Identity = {
        "teacher": node.name if not node.get("also") else f"{node.name} and others",
        "teacher's weights": teacher.sha256,
        "teacher's normalisation": _normalisation(node, sets),
        "teacher's image size": list(resolution(node) or dataset.shape[1:]),
        "precision": options.precision,
        "cache_dtype": dtype,
        "augmentation": loader.augmentation,
        "views": loader.views,
        "classes": dataset.num_classes,
    }
    images, folder = dataset.train.digests(), Path(str(given))
    if str(given).lower() == "true":
        folder = _beside(config, identity, images)
    stored = stored_teacher(
        folder,
        identity,
        images,
        images if sets.train is dataset.train else sets.train.digests(),
        live,
        loader,
        Console(stderr=True),
    )
    stored.verify(options.precision)
    if options.device.type == "cuda":
        stored.hold(options.device)
    return stored


def _normalisation(node: DictConfig, sets: Sets) -> list[list[float]]:
    dataset = sets.dataset
    return [
        [float(each) for each in (own if given is None else given)]
        for given, own in ((node.get("mean"), dataset.mean), (node.get("std"), dataset.std))
    ]


def _beside(config: DictConfig, identity: Identity, images: Sequence[bytes]) -> Path:
    """Return a folder for a store and no other, beside the data's."""
    root, known = config.data.get("root"), hashlib.sha256(json.dumps(dict(identity)).encode())
    for each in sorted(set(images)):
        known.update(each)
    name = f"{choice(config, 'teacher')}_{known.hexdigest()[:12]}"
    if root is None:
        return Path("teacher_cache") / name
    path = Path(os.path.realpath(str(root)))
    return path.with_name(f"{path.name}_teacher_cache") / name
