"""Masks as small pictures, a layer each: bright where units are kept."""

import math

import torch.nn.functional as F
from torch import Tensor

from masksearch.layout import Layer
from masksearch.mask import Mask

__all__ = ["mask_pictures"]

_PIXELS = 48  # of a side, at most
_LAYERS = 12


def mask_pictures(mask: Mask) -> dict[str, Tensor]:
    """By ``mask/<layer>``: the share of kept units in every pixel, (1, height, width), in [0, 1].

    A weight matrix has its outputs downwards; filters stand side by side. Of many layers the first, the last and some
    between them are shown.
    """
    layers = mask.space.layers
    stride = max(1, math.ceil((len(layers) - 1) / (_LAYERS - 1)))
    shown = [*layers[:-1:stride], layers[-1]]
    return {f"mask/{layer.name}": _picture(mask, layer) for layer in shown}


def _picture(mask: Mask, layer: Layer) -> Tensor:
    bits = mask.bits[layer.slice].float()
    rows = layer.shape[0] if math.prod(layer.shape) == layer.size else 1
    picture = bits.view(1, rows, -1)
    if rows == 1:
        picture = picture.expand(1, 4, -1)
    _, height, width = picture.shape
    return F.adaptive_avg_pool2d(picture, (min(height, _PIXELS), min(width, _PIXELS)))
