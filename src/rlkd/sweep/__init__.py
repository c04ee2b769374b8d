"""Comparisons: which runs they consist of, and running these as jobs."""
