"""How many images a forward pass takes at once."""

import torch
from torch import Tensor, nn

from masksearch.training.feed import forward_batch

__all__ = ["images_per_pass"]

_ELEMENTS = 1 << 26  # of the largest output of a layer: a quarter of a gigabyte in float32


@torch.no_grad()
def images_per_pass(model: nn.Module, images: Tensor) -> int:
    """Images (n, ...) that go through ``model`` at once: on a GPU so many that there is something to do."""
    if images.device.type == "cpu":
        return forward_batch(images.device)
    few = images[:2]
    sizes = [1]

    def note(module: nn.Module, given: object, output: object) -> None:
        if isinstance(output, Tensor):
            sizes.append(output.numel() // len(few))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model(few)
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, _ELEMENTS // max(sizes))
