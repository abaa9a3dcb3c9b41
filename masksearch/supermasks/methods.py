"""Edge-popup and Zhou's supermask: initial scores, the mask of every step, the final ranking, and settings."""

from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor, nn

from masksearch.utils.errors import InputError

__all__ = ["SupermaskSettings", "constant", "draw_edge_popup", "draw_zhou", "kaiming", "top"]


@dataclass(frozen=True)
class SupermaskSettings:
    """What a user decides about the learning of scores; the optimiser's other numbers are the published ones."""

    epochs: int = 5
    """Passes over the training images; 0 leaves the scores as they start."""
    batch_size: int = 64
    """Images per step; the last batch of an epoch may be smaller."""
    lr: float | None = None
    """Learning rate of the scores at the start; None takes the method's published one."""
    rescale: bool = True
    """Scale kept weights up while scores are learned, as the papers do; without it logits are too small to learn."""

    def __post_init__(self) -> None:
        _need("epochs", self.epochs, self.epochs >= 0, "0 or more")
        _need("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        _need("lr", self.lr, self.lr is None or 0 < self.lr < inf, "a finite number above 0, or None")


def _need(name: str, value: object, fine: bool, allowed: str) -> None:
    if not fine:
        raise InputError(f"{name}: {value}; allowed is {allowed}")


def top(values: Tensor, kept: int) -> Tensor:
    """0/1 tensor like ``values`` (n,) with ones at its ``kept`` highest values."""
    # Indices, not a threshold: the count is exact among equals too, and no device has to be waited for.
    return torch.zeros_like(values).scatter_(0, values.topk(kept, sorted=False).indices, 1)


def kaiming(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Scores of a weight's shape, uniform in +-1/sqrt(fan in): Kaiming's with a = sqrt(5)."""
    scores = torch.empty(weight.shape, dtype=weight.dtype)
    return nn.init.kaiming_uniform_(scores, a=sqrt(5), generator=generator)


def constant(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Scores 0 of a weight's shape: every weight is equally likely, and only differences of scores matter."""
    return torch.zeros(weight.shape, dtype=weight.dtype)


def draw_edge_popup(scores: Tensor, kept: int) -> Tensor:
    """The mask of the largest ``|s|``.

    Ramanujan et al. 2020, section 3: d loss / d rank is d loss / d (w m) times w for every weight, kept or not. The
    rank is ``|s|``, as in the authors' experiments: s gets that times its sign, and moves away from 0 where w helps.
    """
    rank = scores.abs()
    return _straight_through(top(rank.detach(), kept), rank)


def draw_zhou(scores: Tensor, kept: int) -> Tensor:
    """A mask drawn from Bernoulli(sigmoid(s - t)) (Zhou et al. 2019, section 5), with exactly ``kept`` ones.

    A Bernoulli(sigmoid(a)) is the event that a plus logistic noise is above 0. Here the t that it is compared with is
    the kept-th highest of all s + noise, so that every draw has the density asked for instead of one that drifts as
    scores grow; the rest is the paper's. Gradients pass through sigmoid(s - t), t being a constant to them.
    """
    noisy = scores.detach() + torch.rand_like(scores).logit()
    drawn = noisy.topk(kept, sorted=False)
    mask = torch.zeros_like(noisy).scatter_(0, drawn.indices, 1)
    return _straight_through(mask, torch.sigmoid(scores - drawn.values.min()))


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """``hard`` forwards, bit for bit; the gradient of ``soft`` backwards."""
    return hard + (soft - soft.detach())
