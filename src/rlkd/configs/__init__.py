"""Hydra groups, packaged: an experiment is a diff of them."""
