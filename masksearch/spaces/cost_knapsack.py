"""Masks of filters within a bound on parameters or MACs: the longest prefix of a ranking, and the knapsack."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from masksearch.core.density_allocation import Amount, DensityTooLowError
from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace
from masksearch.core.width_levels import Levels
from masksearch.spaces.removable_space import RemovableSpace


def longest_prefix(space: RemovableSpace, amount: Amount, top: Callable[[Amount], Mask]) -> Mask:
    """Return the mask of as many top-ranked units as fit into a budget of parameters or MACs.

    A prefix (within the scope's shares of the layers) fits if its pruned network has at most the amount's share of the
    full network's parameters or MACs, those of layers outside the space included.

    Parameters
    ----------
    top : callable
        (amount in units) -> mask of the top units of the ranking.

    Raises
    ------
    InputError
        If a network with one unit per layer is already too large.
    """
    hold, allowed = amount.hold, space.allowed(amount)
    in_units = replace(amount, hold="units")
    lower = in_units if amount.on_empty == "keep_one" else replace(in_units, on_empty="allow")

    def prefix(n: int, units: Amount) -> Mask:
        return top(units.at(n / space.n_units))

    def at_least(n: int) -> int:
        """Return a lower bound of the cost of every mask that keeps at least the n top-ranked units."""
        if amount.scope == "global":
            return space.cost_of(prefix(n, lower).kept_counts, hold)
        # Largest remainders may give a layer one unit more at n units than at n + 1 units.
        quotas = np.array(in_units.at(n / space.n_units).quotas(space))
        return space.cost_of(np.maximum(quotas - 1, 0), hold)

    # Bisection with the lower bound: the longest prefix that fits, if there is one, is no longer than ``low``.
    low, high = len(space.layers), space.n_units
    while low < high:
        middle = (low + high + 1) // 2
        if at_least(middle) <= allowed:
            low = middle
        else:
            high = middle - 1
    for n in range(low, len(space.layers) - 1, -1):
        mask = prefix(n, in_units)
        if space.cost_of(mask.kept_counts, hold) <= allowed:
            return mask
    raise DensityTooLowError(
        amount.density,
        f"of the {hold} is less than {space.share(mask, hold):.3g}, which {low} units and the layers outside the space "
        "take",
    )


def knapsack_mask(space: RemovableSpace, saliency: Tensor, amount: Amount, generator: torch.Generator) -> Mask:
    """Return the mask with the largest sum of saliencies in a budget of parameters or MACs; values below 0 count as 0.

    Shen et al. 2022 (HALP): the value of a layer's next unit, by rank, against the cost of one more channel.

    Raises
    ------
    InputError
        If a network with one unit per layer is already too large.
    """
    least = (space.needed & (amount.on_empty != "allow")).astype(int)
    kept = [np.arange(low, layer.size + 1) for low, layer in zip(least, space.layers, strict=True)]
    levels = Levels(kept, lambda numbers: space.cost_of(numbers, amount.hold), space.allowed(amount))
    mask = most_saliency(space, saliency, levels, generator)
    if not space.cost_of(mask.kept_counts, amount.hold) <= levels.budget:
        share = space.share(mask, amount.hold)
        raise DensityTooLowError(
            amount.density,
            f"of the {amount.hold} is less than {share:.3g}, which one unit per layer and the layers outside the space "
            "take",
        )
    return mask


def most_saliency(space: MaskSpace, saliency: Tensor, levels: Levels, generator: torch.Generator) -> Mask:
    """Return the mask with the largest sum of saliencies whose layers keep one of the numbers of units in ``levels``.

    Values below 0 count as 0; the generator breaks ties. If no mask fits the budget of ``levels``, the mask with the
    lowest numbers is returned.
    """
    shuffled = torch.randperm(space.n_units, generator=generator).numpy()
    values = np.maximum(saliency.double().numpy(), 0)
    order = np.lexsort((shuffled, -saliency.double().numpy()))
    ranked = [order[(order >= layer.start) & (order < layer.stop)] for layer in space.layers]
    losses = [
        values[units].sum() - np.concatenate([[0], values[units].cumsum()])[kept]
        for units, kept in zip(ranked, levels.kept, strict=True)
    ]
    numbers = levels.numbers(levels.best(losses))
    return Mask.of_units(space, np.concatenate([units[:n] for units, n in zip(ranked, numbers, strict=True)]))
