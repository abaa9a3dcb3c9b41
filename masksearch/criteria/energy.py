"""The criterion ``energy``: greedy removal of filters on the energy after least-squares repair."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from masksearch.core.energy import removal_order
from masksearch.core.mask import Mask
from masksearch.criteria.batches import Batches, is_split
from masksearch.pruning.energy import repair_energy
from masksearch.pruning.gram_matrices import HELD_OUT
from masksearch.spaces import FilterSpace
from masksearch.utils.errors import InputError
from masksearch.utils.nested import n_examples, take

__all__ = ["energy"]

_BATCH = 64  # examples of a split per batch


def energy(
    model: nn.Module,
    space: FilterSpace,
    batches: Batches,
    *,
    initial: Mapping[str, Tensor] | None = None,
    alive: Mask | None = None,
) -> Tensor:
    """Return each unit's place in the order of greedy removal on the energy after repair, as saliency: (n_units,).

    The unit whose removal, after the best least-squares repair of the layers that read it, adds least to their relative
    squared errors goes first; then the others are rated anew (optimal brain surgery of groups; ZipLM, Kurtic et al.
    2023). The last unit of each layer ranks above all other units.

    Parameters
    ----------
    batches : Split, streamed split, or iterable of (inputs, targets)
        Some hundred training examples; targets are not read. See :func:`masksearch.repair_energy`.
    alive : Mask, optional
        Mask at which the removal begins; units that it prunes have -1.

    Raises
    ------
    InputError
        As :func:`masksearch.repair_energy`.
    """
    found = repair_energy(model, space, _inputs(batches))
    order = removal_order(found, space, space.full() if alive is None else alive)
    saliency = torch.full((space.n_units,), -1.0, dtype=torch.float64)
    saliency[torch.from_numpy(order)] = torch.arange(len(order), dtype=torch.float64)
    return saliency


def _inputs(batches: Batches) -> list[Any]:
    """Return batches of inputs, large ones in parts, so that some are held out."""
    if is_split(batches):
        sizes = [min(_BATCH, len(batches) - start) for start in range(0, len(batches), _BATCH)]
        inputs = [inputs for inputs, _ in batches.batches(None, sizes)]
    else:
        inputs = [inputs for inputs, _ in batches]
    if not inputs:
        raise InputError("batches: none; the criterion 'energy' needs some hundred examples without targets")
    if len(inputs) >= HELD_OUT:
        return inputs
    parts = []
    for batch in inputs:
        n = n_examples(batch)
        size = max(1, min(_BATCH, n // HELD_OUT))
        parts += [take(batch, slice(start, start + size)) for start in range(0, n - n % size, size)]
    return parts
