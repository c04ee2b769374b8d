"""The files of a run as data: figures of its epochs and its end, and their provenance."""
