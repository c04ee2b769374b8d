"""Generators seeded by a key, such as seed, epoch and row."""

import hashlib

import torch


def generator_of(*key: int) -> torch.Generator:
    """Return a CPU generator whose seed no nearby key shares.

    Args:
        key: whole numbers, such as seed, epoch and stream; the same ones give the same draws.
    """
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
