"""Networks: built by name, loaded from checkpoints, frozen as teachers."""

from rlkd.models.checkpoint import load_weights, read_metadata, save_weights
from rlkd.models.create import create, names
from rlkd.models.teacher import Teacher

__all__ = ["Teacher", "create", "load_weights", "names", "read_metadata", "save_weights"]
