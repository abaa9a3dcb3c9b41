"""Methods that learn supermasks (edge-popup, Zhou et al.): settings, initial scores, and masks drawn from scores."""

from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor, nn

from masksearch.utils.errors import check_numbers, require


@dataclass(frozen=True)
class SupermaskSettings:
    """Settings for learning a mask of untrained weights by SGD on one score per weight.

    Momentum, decay and schedule are those of the method's paper.

    Momentum, decay and schedule are the published ones.
    """

    epochs: int = 5
    """Passes over the training examples; 0 leaves the initial scores unchanged."""
    batch_size: int = 64
    """Number of examples per batch; the last batch of an epoch may be smaller."""
    lr: float | None = None
    """Initial learning rate of the scores; if not given, the rate that the method's paper uses."""
    rescale: bool = True
    """Multiply kept weights by a factor while scores are learned, as in the papers.
    Otherwise logits are too small to learn."""

    def __post_init__(self) -> None:
        check_numbers(self, epochs=1_000_000, lr=1e6)
        require("epochs", self.epochs, self.epochs >= 0, "0 or more")
        require("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        require("lr", self.lr, self.lr is None or 0 < self.lr < inf, "a finite number above 0, or None")


def top(values: Tensor, kept: int) -> Tensor:
    """Return a 0/1 tensor (n,) with ones at the ``kept`` largest entries of ``values`` (n,)."""
    # Indices instead of a threshold: the count is exact also for ties, and the host does not wait for the device.
    return torch.zeros_like(values).scatter_(0, values.topk(kept, sorted=False).indices, 1)


def kaiming(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return initial scores in a weight's shape, uniform in +-1/sqrt(fan in): Kaiming uniform with a = sqrt(5)."""
    scores = torch.empty(weight.shape, dtype=weight.dtype)
    return nn.init.kaiming_uniform_(scores, a=sqrt(5), generator=generator)


def constant(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return initial scores of 0 in a weight's shape, so that all weights are kept with equal probability."""
    return torch.zeros(weight.shape, dtype=weight.dtype)


def draw_edge_popup(scores: Tensor, kept: int) -> Tensor:
    """Return the 0/1 mask (n,) of the ``kept`` largest |scores|; its gradient is passed on to |scores| unchanged.

    Ramanujan et al. 2020, section 3: d loss / d rank is d loss / d (w m) times w for every weight w with mask m, kept
    or not. The rank is ``|s|``, as in the authors' experiments: the gradient of s is d loss / d rank times sign(s).
    """
    rank = scores.abs()
    return _straight_through(top(rank.detach(), kept), rank)


def draw_zhou(scores: Tensor, kept: int) -> Tensor:
    """Draw a random 0/1 mask (n,) with ``kept`` ones; the higher an entry's score, the likelier it is kept.

    The draw is from Bernoulli(sigmoid(s - t)) of the scores s.

    Zhou et al. 2019, section 5. A draw from Bernoulli(sigmoid(a)) is 1 if a plus logistic noise is above 0. Here t is
    the kept-th highest value of s + noise, so that every draw has the requested density; in the paper t is 0 and the
    density drifts. Gradients pass through sigmoid(s - t) with constant t.
    """
    noisy = scores.detach() + torch.rand_like(scores).logit()
    drawn = noisy.topk(kept, sorted=False)
    mask = torch.zeros_like(noisy).scatter_(0, drawn.indices, 1)
    return _straight_through(mask, torch.sigmoid(scores - drawn.values.min()))


def _straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Return a tensor with the values of ``hard``, bit for bit, and the gradient of ``soft``."""
    return hard + (soft - soft.detach())
