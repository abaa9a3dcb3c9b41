"""Random streams, each derived from one seed and words that name its purpose."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

__all__ = ["derive", "numpy_generator", "seeded", "torch_generator"]


def derive(seed: int, *words: object) -> int:
    """A 63-bit seed from ``seed`` and ``words``, equal in every process; other words give unrelated seeds."""
    text = "/".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, *words: object) -> torch.Generator:
    """A CPU generator for :func:`derive`'s seed."""
    return torch.Generator().manual_seed(derive(seed, *words))


def numpy_generator(seed: int, *words: object) -> np.random.Generator:
    """A PCG64 generator for :func:`derive`'s seed. It draws subsets in O(size of the subset)."""
    return np.random.Generator(np.random.PCG64(derive(seed, *words)))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of ``device``; restore their states at the end of the block."""
    with ExitStack() as stack:
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            stack.enter_context(torch.cuda.device(device))
        if device.type != "cpu":
            backend = torch.get_device_module(device)
            stack.callback(backend.set_rng_state, backend.get_rng_state())
            backend.manual_seed(seed)
        yield
