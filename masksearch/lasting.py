"""Lasting: how long units last while a network is pruned gradually, as a saliency.

A network that was trained dense says little of which of its weights would do without nearly all the others. One that
goes on learning while its density falls (Zhu & Gupta 2017) has found out by the end.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from masksearch.dynamic import Gradual
from masksearch.mask import Mask
from masksearch.spaces import NetworkSpace
from masksearch.training import TrainSettings, steps_per_epoch, train
from masksearch.training.feed import Images

__all__ = ["lasting"]


def lasting(
    model: nn.Module,
    space: NetworkSpace,
    split: Images,
    settings: TrainSettings,
    density: float,
    choose: Callable[[nn.Module, float, Mask], Mask],
    rank: Callable[[nn.Module, Mask], Tensor],
    *,
    alive: Mask | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    augment: bool = False,
) -> Tensor:
    """Prune a copy of a network gradually; what is left in the end ranks highest, then what was left the longest.

    Parameters
    ----------
    model : nn.Module
        With the weights to begin with; left as it is.
    split : Images
        What it goes on learning.
    settings : TrainSettings
        How: for all of its epochs, of which density falls during the first three quarters.
    density : float
        In the end.
    choose : callable
        Network, density and the units that are alive -> a mask of that density within them.
    rank : callable
        Network and mask -> saliency (n_units,): the order of units that went at once, and of those that are left.
    alive : Mask, optional
        Where to begin; nothing is pruned if left out.
    seed, device, augment
        Of the training.

    Returns
    -------
    Tensor (n_units,)
        Float64, on the CPU: the number of changes of the mask that a unit outlasted, plus its quantile among those that
        outlasted no more. Units that weren't alive have -1.
    """
    network = copy.deepcopy(model)
    begin = space.full() if alive is None else alive
    outlasted, changes = torch.full((space.n_units,), -1.0, dtype=torch.float64), 0

    def note(units: Tensor, mask: Mask) -> None:
        nonlocal changes
        order = rank(network, mask).detach().cpu().double()[units].argsort(stable=True).argsort(stable=True)
        outlasted[units] = changes + order.double() / max(1, len(order))
        changes += 1

    def change(reached: float, before: Mask) -> Mask:
        mask = choose(network, reached, before)
        note(before.bits & ~mask.bits, before)
        return mask

    steps = settings.epochs * steps_per_epoch(len(split.images), settings.batch_size)
    gradual = Gradual(network, space, change, density, steps, alive=begin)
    train(network, split, settings, remask=gradual, seed=seed, device=device, augment=augment)
    note(gradual.mask.bits, gradual.mask)
    return outlasted
