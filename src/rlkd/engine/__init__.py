"""Runs of any task: building the parts, training, and the run folder."""
