"""Checks that several ranks see the same data, before they train."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlkd import distributed
from rlkd.errors import UserError


def require_same_data(
    targets: Mapping[str, Tensor | Sequence[int]], class_names: Sequence[str]
) -> None:
    """Find out whether all ranks see the same images: their numbers, labels and classes.

    Args:
        targets: the class of every image, by the name of its split.
        class_names: in the order of their indices.

    Raises:
        UserError: on every rank, naming the first split or rank that differs from rank 0.
    """
    own = {split: _known_by(torch.as_tensor(each)) for split, each in targets.items()}
    own["class names"] = (len(class_names), _hash("\n".join(class_names).encode()))
    seen = distributed.gather_objects(own)
    for rank, each in enumerate(seen):
        for what, (count, digest) in each.items():
            first_count, first_digest = seen[0][what]
            if (count, digest) == (first_count, first_digest):
                continue
            differs = f"{count} of rank {rank} and {first_count} of rank 0"
            if count == first_count:
                differs = f"the {count} of rank {rank} and of rank 0 have other labels or names"
            raise UserError(
                f"ranks see different data ({what}: {differs}): give every machine the same files "
                "under data.root"
            )


def _known_by(target: Tensor) -> tuple[int, str]:
    return len(target), _hash(target.cpu().long().numpy().tobytes())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
