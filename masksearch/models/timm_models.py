"""Untrained image classifiers of timm, built by timm's names."""

from difflib import get_close_matches
from inspect import signature
from typing import Any

from torch import nn

from masksearch.models.blocks import Shape
from masksearch.utils.errors import InputError

__all__ = ["check_timm_name", "from_timm"]


def check_timm_name(name: str) -> None:
    """Raise an InputError if timm is not installed, or has no network of this name; the message has the nearest."""
    try:
        import timm
    except ImportError:
        raise InputError(f"model: timm:{name} needs the package timm: pip install timm") from None
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise InputError(f"model: timm has no {name!r}; {hint}timm.list_models() has all names")


def from_timm(name: str, shape: Shape, classes: int) -> nn.Module:
    """Build timm's classifier ``name`` for images of any number of channels, untrained.

    Raises
    ------
    InputError
        If timm is not installed, for unknown names, and for networks that can't take the images.
    """
    check_timm_name(name)
    import timm

    c, h, w = shape
    settings: dict[str, Any] = {"pretrained": False, "num_classes": classes, "in_chans": c}
    if "img_size" in signature(timm.model_entrypoint(name)).parameters or "vit" in name or "swin" in name:
        settings["img_size"] = (h, w)
    try:
        return timm.create_model(name, **settings)
    except TypeError as error:
        if "img_size" not in settings or "img_size" not in str(error):
            raise InputError(f"model: timm can't build {name!r} ({error})") from None
        del settings["img_size"]
        return timm.create_model(name, **settings)
