"""Every classifier of torchvision, untrained, under the names that torchvision gives them."""

from typing import Any

from torch import nn

from masksearch.models.blocks import Shape
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["from_torchvision", "torchvision_names"]

_AUXILIARY = ("googlenet", "inception_v3")  # classifiers in mid-network, which training would have to know of


def torchvision_names() -> list[str]:
    """Names of torchvision's classifiers."""
    from torchvision import models

    return models.list_models(module=models)


def from_torchvision(name: str, shape: Shape, classes: int) -> nn.Module:
    """``torchvision.models.<name>`` for 3-channel images, with torchvision's initial weights and no auxiliary heads.

    Raises
    ------
    InputError
        For unknown names, and images that have other than 3 channels.
    """
    from torchvision import models  # here, because it takes a second to load and few commands need it

    choose("torchvision classifier", name, torchvision_names())
    c, h, w = shape
    if c != 3:
        raise InputError(f"torchvision's {name} takes images of 3 channels, not {c}")
    settings: dict[str, Any] = {}
    if name in _AUXILIARY:
        settings = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):  # positions are learned, so that the size is part of the network
        if h != w:
            raise InputError(f"torchvision's {name} takes square images, not {h}x{w}")
        settings = {"image_size": h}
    elif name.startswith("maxvit"):
        settings = {"input_size": (h, w)}
    return models.get_model(name, weights=None, num_classes=classes, **settings)
