"""A look at network and data before any work: two images go through, and what can't be trained is refused."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masksearch.training.feed import Examples
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import seeded

__all__ = ["Loss", "Probe", "cross_entropy", "mode_kept", "probe", "takes_channels_last"]

_FEW_FILTERS = 8  # a vector register's width: narrower layers were up to 1.8 times slower with channels innermost

Loss = Callable[[Any, Tensor], Tensor]
"""A loss: the network's outputs and labels (b,) -> their mean loss, a scalar tensor."""


@dataclass(frozen=True)
class Probe:
    """What the trial run showed."""

    classifies: bool  # outputs are (n, classes): accuracy makes sense
    channels_last: bool  # batches go in with the channels innermost


def cross_entropy(outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits (b, classes), in float32 also where the network calculates in less."""
    return F.cross_entropy(outputs.float(), labels, label_smoothing=label_smoothing)


@contextmanager
def mode_kept(model: nn.Module) -> Iterator[None]:
    """On leaving, every module is in the mode (train or eval) that it was found in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def probe(model: nn.Module, split: Examples, device: torch.device, loss: Loss | None, name: str = "split") -> Probe:
    """Check a split, then run two of its images through the network (on ``device`` already) in eval mode.

    Raises
    ------
    InputError
        For no images, images or labels of the wrong shape or type, values that aren't finite, labels outside the
        classes, and, without a loss of the user's own, outputs that aren't logits (n, classes).
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
            return Probe(classifies, channels_last)
    if not classifies:
        raise InputError(
            f"model: {type(model).__name__} returns {_shown(outputs)}; cross-entropy needs float logits (n, classes), "
            "and other outputs a loss of your own"
        )
    if (largest := int(split.targets.max())) >= outputs.shape[1]:
        raise InputError(f"{name}: label {largest}; {type(model).__name__} has the classes 0 to {outputs.shape[1] - 1}")
    return Probe(classifies, channels_last)


def takes_channels_last(model: nn.Module, images: Tensor) -> bool:
    """Whether images go in with the channels innermost: convolutions are faster that way on the CPU and in bfloat16.

    Those of very few filters, which heavy pruning leaves, are not. Weights stay as they are, so that files don't
    notice. A network that calls ``view`` on a convolution's output raises for this layout: it gets the ordinary one.
    ``model`` is in eval mode, ``images`` are few.
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
    if not all(value.isfinite() for value in images.aminmax()):  # NaN and infinity both end up in the extremes
        raise InputError(f"{name}: {int((~images.isfinite()).sum())} values of its images aren't finite; all must be")
    if (smallest := int(labels.min())) < 0:
        raise InputError(f"{name}: label {smallest}; labels are 0 or more")


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return f"a {type(value).__name__}"
