"""Seeds and random generators for separate purposes, each derived from one seed and words that name the purpose."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from masksearch.utils.errors import check_whole


def check_seed(seed: object) -> None:
    """Raise an InputError unless ``seed`` is a whole number of at most 2**63, with either sign."""
    check_whole("seed", seed, -(2**63), 2**63)


def derive(seed: int, *words: object) -> int:
    """Return a 63-bit seed computed from ``seed`` and ``words``: equal in all processes, unrelated for other words."""
    text = "/".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, *words: object) -> torch.Generator:
    """Return a CPU ``torch.Generator`` with a seed that :func:`derive` computes from ``seed`` and ``words``."""
    return torch.Generator().manual_seed(derive(seed, *words))


def numpy_generator(seed: int, *words: object) -> np.random.Generator:
    """Return a NumPy PCG64 generator with a seed that :func:`derive` computes from ``seed`` and ``words``.

    In contrast to torch's generators, it draws subsets in time O(size of the subset).
    """
    return np.random.Generator(np.random.PCG64(derive(seed, *words)))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Context manager that seeds torch's global generators (CPU and ``device``), and restores their states after."""
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
