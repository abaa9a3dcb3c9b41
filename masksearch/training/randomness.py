"""The global random state, borrowed: dropout and its like draw from it, so it is seeded for a while and put back."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of ``device``; on leaving, both have their old state."""
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
