"""Regrowth updates of dynamic sparse training (SET, RigL): each layer prunes weights and restores as many."""

from math import cos, pi

import torch
from torch import Tensor

from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace


def cosine_share(step: int, end: int, alpha: float = 0.3) -> float:
    """Return the fraction of kept weights that RigL replaces at a step; the fraction falls to 0 at step ``end``.

    alpha / 2 (1 + cos(pi step / end)). Evci et al. 2020 (section 3, "update schedule").
    """
    return alpha / 2 * (1 + cos(pi * step / end)) if step < end else 0.0


def set_update(space: MaskSpace, mask: Mask, weights: Tensor, share: float, generator: torch.Generator) -> Mask:
    """Return the mask after an update of SET: each layer prunes its smallest weights and restores as many at random.

    Mocanu et al. 2018 drop ``share`` of the positive and of the negative weights, those nearest to zero; here, as in
    Evci et al. 2020, ``share`` of all weights is dropped. A dropped weight may be drawn again.

    Parameters
    ----------
    space, mask : MaskSpace, Mask
        The space and the current mask; every layer keeps its number of units.
    weights : float tensor (n_units,)
        The smallest magnitudes are dropped.
    share : float
        Share of the kept units of every layer to drop, in [0, 1); the number is rounded down.
    generator : torch.Generator
        Source of the random regrowth and of ties.
    """
    return _regrown(space, mask, weights, torch.rand(space.n_units, generator=generator), share, generator)


def rigl_update(
    space: MaskSpace, mask: Mask, weights: Tensor, gradients: Tensor, share: float, generator: torch.Generator
) -> Mask:
    """Return the mask after an update of RigL: prune the smallest weights, restore the weights of largest gradient.

    Evci et al. 2020 (algorithm 1). Dropped weights are candidates, too: a weight comes back, with its value, if its
    gradient is among the largest.

    Parameters
    ----------
    gradients : float tensor (n_units,)
        Gradients of the loss for all weights, pruned ones included; ranked by magnitude.

    Notes
    -----
    The other parameters are those of :func:`set_update`; ``generator`` only breaks ties.
    """
    return _regrown(space, mask, weights, gradients.detach().abs().cpu(), share, generator)


def _regrown(
    space: MaskSpace, mask: Mask, weights: Tensor, growth: Tensor, share: float, generator: torch.Generator
) -> Mask:
    """Drop by |weight|, regrow by ``growth``; ``top_k`` makes the counts exact."""
    kept = mask.kept_counts.tolist()
    staying = [k - int(share * k) for k in kept]
    magnitudes = weights.detach().abs().cpu().masked_fill(~mask.bits, -torch.inf)
    stay = space.top_k(magnitudes, space.densities(staying), generator=generator, on_empty="allow")
    growth = growth.masked_fill(stay.bits, torch.inf)
    return space.top_k(growth, space.densities(kept), generator=generator, on_empty="allow")
