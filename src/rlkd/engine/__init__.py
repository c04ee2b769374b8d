"""Runs of any task: building the parts, training, checkpoints, and what a run leaves in its folder."""
