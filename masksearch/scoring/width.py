"""How wide a filter mask leaves a network: scores that need no images, no weights and no training."""

import math

import numpy as np

from masksearch.mask import Mask
from masksearch.spaces import FilterSpace

__all__ = ["relative_width", "width"]


def width(space: FilterSpace, mask: Mask) -> float:
    """Minus the sum over the network's layers of 1 / n, n the outputs that a layer has left.

    How much gradients fluctuate in an untrained chain of ReLU layers grows exponentially with this sum over the hidden
    ones (Hanin 2018). What is only wired otherwise counts the same here: each convolution that writes to a residual
    trunk adds the trunk's width once. Layers that lose no outputs under any mask are left out. Minus infinity for a
    mask that empties a layer.
    """
    return _minus_sum(1.0, space.widths(mask))


def relative_width(space: FilterSpace, mask: Mask) -> float:
    """Minus the sum over the network's layers of N / n, n the outputs that a layer has left of the N it had.

    As :func:`width`, of what a layer has left of its own: the proportions that the network was designed with count as
    balanced. Held to MACs, stages then share them as they did; in a residual one, whose trunk counts once for each
    convolution that writes to it, the trunk becomes a third wider than its blocks where four do, in three blocks.
    """
    return _minus_sum(space.dense_widths, space.widths(mask))


def _minus_sum(numerators: np.ndarray | float, widths: np.ndarray) -> float:
    return -float((numerators / widths).sum()) if widths.all() else -math.inf
