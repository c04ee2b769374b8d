"""A teacher's logits on disk, exact for every view of every image, so that it runs once."""
