"""Dynamic sparse training (SET, RigL): at intervals, each layer prunes weights and restores as many others."""

from math import cos, pi
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace
from masksearch.schedules.changing_mask import ChangingMask, default_end, default_interval
from masksearch.spaces import NetworkSpace
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose as choose_name
from masksearch.utils.seeds import torch_generator

Kind = Literal["set", "rigl"]


class Regrowing(ChangingMask):
    """Dynamic sparse training: at intervals, each layer prunes its smallest weights and restores as many pruned ones.

    ``set`` (Mocanu et al. 2018) regrows at random, ``rigl`` (Evci et al. 2020) where gradients are largest: the
    gradients of the last batch before its step, a step that the published RigL omits. The published SET changes masks
    after every epoch except the last one; set ``interval`` and ``end`` accordingly.

    Parameters
    ----------
    model : nn.Module
        The network that is trained.
    space : NetworkSpace
        A weight space. A filter that is regrown at zero would get no gradient.
    mask : Mask
        Mask to begin with. Every layer keeps its number of weights.
    kind : {"set", "rigl"}
        Which weights are regrown.
    steps : int
        Step at which the training ends. All steps are counted from epoch 0 of the learning-rate schedule.
    begin : int
        Step at which the training begins.
    share : float
        Share of a layer's kept weights to drop per change: SET's zeta, constant, or RigL's alpha, which falls along a
        cosine.
    interval : int, optional
        Steps between two changes. Default: :func:`default_interval`.
    end : int, optional
        Step after which the mask does not change. Default: 75 % of the training.
    seed : int
        Seed of random regrowth and of ties.

    Raises
    ------
    InputError
        For filters, a mask of another space or with an empty layer, and numbers out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        space: NetworkSpace,
        mask: Mask,
        kind: Kind = "rigl",
        *,
        steps: int,
        begin: int = 0,
        share: float = 0.3,
        interval: int | None = None,
        end: int | None = None,
        seed: int = 0,
    ) -> None:
        choose_name("kind of regrowing", kind, list(get_args(Kind)))
        if space.granularity != "weight":
            raise InputError(
                f"{kind}: is for weight masks, not {space.granularity}; a filter regrown at zero gets no gradient"
            )
        if not 0 < share < 1:
            raise InputError(f"share: {share}; allowed is a number between 0 and 1")
        self.interval = default_interval(steps - begin) if interval is None else interval
        if self.interval < 1:
            raise InputError(f"interval: {interval}; allowed is 1 or more steps")
        self.kind, self.share, self.seed = kind, share, seed
        self.begin, self.end = begin, default_end(steps, begin) if end is None else end
        settings = {"kind": kind, "share": share, "interval": self.interval, "begin": begin, "end": self.end}
        settings |= {"seed": seed}
        super().__init__(model, space, mask, settings)
        if empty := mask.empty_layers():
            raise InputError(f"mask: keeps nothing of layer {empty[0]!r}; regrowing needs weights in every layer")

    def _due(self, step: int) -> bool:
        return step < self.end and step % self.interval == 0

    def _next(self, step: int) -> Mask:
        generator = torch_generator(self.seed, self.kind, step)
        parameters = {name: self.model.get_parameter(name) for name in self.space.layer_weights()}
        weights = self.space.unit_sums(parameters)
        if self.kind == "set":
            return set_update(self.space, self.mask, weights, self.share, generator)
        gradients = {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            for name, parameter in parameters.items()
        }
        share = cosine_share(step - self.begin, self.end - self.begin, self.share)
        return rigl_update(self.space, self.mask, weights, self.space.unit_sums(gradients), share, generator)


def cosine_share(step: int, end: int, alpha: float = 0.3) -> float:
    """Return the share of weights that RigL prunes and regrows at a step: a cosine that falls to 0 at step ``end``.

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
