"""Untrained image classifiers of torchvision, built by torchvision's names."""

from torch import nn

from masksearch.models.blocks import Shape
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["from_torchvision", "torchvision_names"]

_AUXILIARY = ("googlenet", "inception_v3")  # networks with auxiliary heads, for which the trainer has no loss


def torchvision_names() -> list[str]:
    """Return the names of torchvision's image classifiers."""
    from torchvision import models

    return models.list_models(module=models)


def from_torchvision(name: str, shape: Shape, classes: int) -> nn.Module:
    """Build torchvision's classifier ``name`` for 3-channel images, untrained and without auxiliary heads.

    Raises
    ------
    InputError
        For unknown names, images without 3 channels, and non-square images for ``vit_*``.
    """
    from torchvision import models  # imported here, because the import takes a second

    choose("torchvision classifier", name, torchvision_names())
    c, h, w = shape
    if c != 3:
        raise InputError(f"torchvision's {name} takes images of 3 channels, not {c}")
    settings: dict[str, object] = {}
    if name in _AUXILIARY:
        settings = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):  # learned positions fix the size of the images
        if h != w:
            raise InputError(f"torchvision's {name} takes square images, not {h}x{w}")
        settings = {"image_size": h}
    elif name.startswith("maxvit"):
        settings = {"input_size": (h, w)}
    return models.get_model(name, weights=None, num_classes=classes, **settings)
