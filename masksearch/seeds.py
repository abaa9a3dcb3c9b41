"""Random numbers: every stream is derived from one seed and the words that say what it is for."""

import hashlib

import numpy as np
import torch

__all__ = ["derive", "numpy_generator", "torch_generator"]


def derive(seed: int, *words: object) -> int:
    """A 63-bit seed for what ``words`` name: other words, an unrelated stream; the same in every process."""
    text = "/".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, *words: object) -> torch.Generator:
    """A CPU generator for :func:`derive`'s seed."""
    return torch.Generator().manual_seed(derive(seed, *words))


def numpy_generator(seed: int, *words: object) -> np.random.Generator:
    """A PCG64 generator for :func:`derive`'s seed. Its state is a few integers, and it draws subsets in O(subset)."""
    return np.random.Generator(np.random.PCG64(derive(seed, *words)))
