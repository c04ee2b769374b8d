"""Hostile inputs, made by seed, and what may come of them: shared by `fuzz.py` and the tests."""
