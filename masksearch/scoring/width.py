"""How wide a filter mask leaves a network: a score that needs no images, no weights and no training."""

import math

from masksearch.mask import Mask
from masksearch.spaces import FilterSpace

__all__ = ["width"]


def width(space: FilterSpace, mask: Mask) -> float:
    """Minus the sum over the network's layers of 1 / n, n the outputs that a layer has left.

    How much gradients fluctuate in an untrained chain of ReLU layers grows exponentially with this sum over the hidden
    ones (Hanin 2018). What is only wired otherwise counts the same here: each convolution that writes to a residual
    trunk adds the trunk's width once. Layers that lose no outputs under any mask are left out. Minus infinity for a
    mask that empties a layer.
    """
    widths = space.widths(mask)
    return -float((1 / widths).sum()) if widths.all() else -math.inf
