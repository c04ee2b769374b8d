"""Runs: the training step, its configuration, and what a run leaves behind."""

from rlkd.training.run import distill, score_checkpoints, train

__all__ = ["distill", "score_checkpoints", "train"]
