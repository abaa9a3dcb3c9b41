"""How many images a forward pass takes at once."""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from masksearch.training.feed import forward_batch

__all__ = ["images_per_pass"]

_ELEMENTS = 1 << 26  # of the largest output of a layer: a quarter of a gigabyte in float32
_MOST = 10_000  # images: outputs that are no module's, and so unseen, are bounded by that


@torch.no_grad()
def images_per_pass(model: nn.Module, images: Tensor) -> int:
    """Images (n, ...) that go through ``model`` at once: on a GPU so many that there is something to do."""
    if images.device.type == "cpu":
        return forward_batch(images.device)
    few = images[:2]
    sizes = [1]

    def note(module: nn.Module, given: object, output: object) -> None:
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        sizes.extend(tensor.numel() // len(few) for tensor in tensors)

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model(few)
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, min(_MOST, _ELEMENTS // max(sizes)))
