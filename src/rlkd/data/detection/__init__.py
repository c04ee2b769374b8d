"""COCO annotations, their images, and loaders of both."""
