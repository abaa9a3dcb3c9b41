"""Dynamic sparse training: in every layer, drop the smallest weights and regrow as many elsewhere."""

from math import cos, pi

import torch
from torch import Tensor

from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace

__all__ = ["cosine_share", "rigl_update", "set_update"]


def cosine_share(step: int, end: int, alpha: float = 0.3) -> float:
    """Share of a layer's weights that RigL drops after a step: alpha / 2 (1 + cos(pi step / end)), 0 from ``end`` on.

    Evci et al. 2020 (section 3, "update schedule").
    """
    return alpha / 2 * (1 + cos(pi * step / end)) if step < end else 0.0


def set_update(space: MaskSpace, mask: Mask, weights: Tensor, share: float, generator: torch.Generator) -> Mask:
    """One update of SET, sparse evolutionary training: regrow at random.

    Mocanu et al. 2018. They drop ``share`` of the positive and of the negative weights, those nearest to zero; here, as
    in Evci et al. 2020, it is ``share`` of all. A weight just dropped may be drawn again.

    Parameters
    ----------
    space, mask : MaskSpace, Mask
        Where and from what; every layer keeps as many units as before.
    weights : float tensor (n_units,)
        Of which the smallest in magnitude are dropped.
    share : float
        Of the kept units of every layer, in [0, 1), rounded down.
    generator : torch.Generator
        Draws what is regrown, and breaks ties.
    """
    return _regrown(space, mask, weights, torch.rand(space.n_units, generator=generator), share, generator)


def rigl_update(
    space: MaskSpace, mask: Mask, weights: Tensor, gradients: Tensor, share: float, generator: torch.Generator
) -> Mask:
    """One update of RigL: regrow where the gradient is largest.

    Evci et al. 2020 (algorithm 1). Candidates are all units but those that stay, so that a weight just dropped comes
    back, with its value, if its gradient is among the largest.

    Parameters
    ----------
    gradients : float tensor (n_units,)
        Of the loss by all weights, the pruned ones included; ranked by magnitude.

    Notes
    -----
    The other parameters are those of :func:`set_update`; ``generator`` only breaks ties.
    """
    return _regrown(space, mask, weights, gradients.detach().abs().cpu(), share, generator)


def _regrown(
    space: MaskSpace, mask: Mask, weights: Tensor, growth: Tensor, share: float, generator: torch.Generator
) -> Mask:
    """Drop by |weight|, regrow by ``growth``; both rankings are ``top_k``, so that counts are exact."""
    kept = list(mask.kept_per_layer().values())
    staying = [k - int(share * k) for k in kept]
    magnitudes = weights.detach().abs().cpu().masked_fill(~mask.bits, -torch.inf)
    stay = space.top_k(magnitudes, space.densities(staying), generator=generator, on_empty="allow")
    growth = growth.masked_fill(stay.bits, torch.inf)
    return space.top_k(growth, space.densities(kept), generator=generator, on_empty="allow")
