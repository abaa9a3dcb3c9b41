"""Checks of network and data before a training: a split's tensors, and a forward pass of two examples."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.training.batches import Examples
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import seeded

__all__ = ["InputCheck", "Loss", "check_inputs", "cross_entropy", "mode_kept", "takes_channels_last"]

_FEW_FILTERS = 8  # width of a vector register; narrower layers were up to 1.8 times slower with innermost channels

Loss = Callable[[Any, Tensor], Tensor]
"""A loss: (outputs, targets (b,)) -> mean loss, a scalar tensor."""


@dataclass(frozen=True)
class InputCheck:
    """Facts from the check's forward pass."""

    classifies: bool  # outputs are logits (n, classes)
    channels_last: bool  # batches should have innermost channels


def cross_entropy(outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (b, classes), always in float32."""
    return F.cross_entropy(outputs.float(), labels, label_smoothing=label_smoothing)


@contextmanager
def mode_kept(model: nn.Module) -> Iterator[None]:
    """At the end of the block, restore the mode (train or eval) of every module."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_inputs(
    model: nn.Module, split: Examples, device: torch.device, loss: Loss | None, name: str = "split"
) -> InputCheck:
    """Check a split, then run two of its examples through the network (already on ``device``) in eval mode.

    Raises
    ------
    InputError
        For no images, images or labels of the wrong shape or type, values that aren't finite, labels outside the
        classes, and, without ``loss``, outputs that aren't logits (n, classes).
    """
    _check_split(split, name)
    images, labels = split.inputs[:2].to(device), split.targets[:2].to(device)
    with mode_kept(model), seeded(0, device), torch.no_grad():
        model.eval()
        channels_last = takes_channels_last(model, images)
        outputs = model(images.contiguous(memory_format=torch.channels_last) if channels_last else images)
        classifies = isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.is_floating_point()
        if loss is not None:
            value = loss(outputs, labels)
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise InputError(f"loss: returned {_shown(value)}; a scalar tensor is needed")
            return InputCheck(classifies, channels_last)
    if not classifies:
        raise InputError(
            f"model: {type(model).__name__} returns {_shown(outputs)}; cross-entropy needs float logits (n, classes); "
            "give other outputs a loss of your own"
        )
    if (largest := int(split.targets.max())) >= outputs.shape[1]:
        raise InputError(f"{name}: label {largest}; {type(model).__name__} has the classes 0 to {outputs.shape[1] - 1}")
    return InputCheck(classifies, channels_last)


def takes_channels_last(model: nn.Module, images: Tensor) -> bool:
    """Whether batches should have innermost channels: then convolutions are faster on the CPU and in bfloat16.

    Convolutions of very few filters, as heavy pruning leaves, are not faster. A network that calls ``view`` on a
    convolution's output can't process this memory format. Weights keep their format.

    Parameters
    ----------
    model : nn.Module
        In eval mode.
    images : Tensor (n, c, h, w)
        A small batch for a test run.
    """
    filters = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    if images.shape[1] == 1 or min(filters, default=0) < _FEW_FILTERS:
        return False
    try:
        model(images.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    return True


def _check_split(split: Examples, name: str) -> None:
    images, labels = split.inputs, split.targets
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(f"{name}: images are {_shown(images)}; a float tensor (n, c, h, w) is needed")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise InputError(f"{name}: labels are {_shown(labels)}; an int64 tensor ({len(images)},) is needed")
    if not len(images):
        raise InputError(f"{name}: 0 images; at least one is needed")
    if not all(value.isfinite() for value in images.aminmax()):  # minimum or maximum is NaN or infinite if any value is
        raise InputError(f"{name}: {int((~images.isfinite()).sum())} values of its images aren't finite; all must be")
    if (smallest := int(labels.min())) < 0:
        raise InputError(f"{name}: label {smallest}; labels are 0 or more")


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return f"a {type(value).__name__}"
