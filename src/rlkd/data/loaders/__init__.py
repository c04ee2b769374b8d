"""Training batches that depend on the seed, the epoch and their number alone."""
