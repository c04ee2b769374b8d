"""Paired comparisons over seeds."""
