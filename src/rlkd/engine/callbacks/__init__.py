"""Lightning callbacks of a run: checkpoints, metrics and progress."""
