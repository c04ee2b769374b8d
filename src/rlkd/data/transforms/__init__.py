"""Augmentation and resizing."""
