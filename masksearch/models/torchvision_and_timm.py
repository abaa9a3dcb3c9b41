"""Untrained image classifiers of torchvision and timm, built by the names that these packages give them."""

from difflib import get_close_matches
from functools import partial
from inspect import signature

from torch import nn

from masksearch.models.network_construction import Shape
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["check_timm_name", "from_timm", "from_torchvision", "torchvision_names"]

_AUXILIARY = ("googlenet", "inception_v3")  # networks with auxiliary heads, for which the trainer has no loss


def torchvision_names() -> list[str]:
    """Return the names of torchvision's image classifiers."""
    from torchvision import models

    return models.list_models(module=models)


def from_torchvision(name: str, shape: Shape, classes: int) -> nn.Module:
    """Build torchvision's classifier ``name`` for 3-channel images, with random weights and without auxiliary heads.

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


def check_timm_name(name: str) -> None:
    """Raise an InputError if timm is missing or has no network ``name``; the message suggests the nearest name."""
    try:
        import timm
    except ImportError:
        raise InputError(f"model: timm:{name} needs the package timm: pip install timm") from None
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise InputError(f"model: timm has no {name!r}; {hint}timm.list_models() has all names")


def from_timm(name: str, shape: Shape, classes: int) -> nn.Module:
    """Build timm's classifier ``name`` for images with any number of channels, with random weights.

    Raises
    ------
    InputError
        If timm is not installed, for unknown names, and for networks that can't take the images.
    """
    check_timm_name(name)
    import timm

    c, h, w = shape
    build = partial(timm.create_model, name, pretrained=False, num_classes=classes, in_chans=c)
    sized = "img_size" in signature(timm.model_entrypoint(name)).parameters or "vit" in name or "swin" in name
    try:
        return build(img_size=(h, w)) if sized else build()
    except TypeError as error:
        if not sized or "img_size" not in str(error):
            raise InputError(f"model: timm can't build {name!r} ({error})") from None
        return build()
