"""Checks of upper bounds of costs before any training: whether the smallest masked network keeps within the bounds."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from masksearch.core.mask import Mask
from masksearch.data import Data
from masksearch.experiment.cell import Cell
from masksearch.models import build_model
from masksearch.scoring import LatencyShare
from masksearch.spaces import NetworkSpace
from masksearch.spaces.removable_space import RemovableSpace
from masksearch.utils.errors import InputError

_NAMES = {"macs": "MACs", "params": "parameters"}
_MEASUREMENTS = 3  # of the latency of the smallest network; the fastest counts
_TOLERANCE = 1.25  # of measured latencies, which differ from run to run


def check_cost_bound(cell: Cell, space: NetworkSpace) -> None:
    """Raise an InputError if even the smallest masked network has more MACs or parameters than the run's upper bound.

    Masks that may empty layers (``on_empty`` = ``allow``) and bounds of latencies are not checked.
    """
    amount, sweep = cell.amounts(space)[-1], cell.settings.sweep
    if amount.hold == "units" or sweep.capped == "latency" or not isinstance(space, RemovableSpace):
        return
    if amount.on_empty == "allow" and space.needed.any() and not cell.front:
        return
    full, least = (space.cost_of(kept, amount.hold) for kept in (space.sizes, space.least_kept))
    if least <= space.allowed(amount):
        return
    share = least / full
    if sweep.capped:
        value, remedy = cell.density, f"at least {math.ceil(share * 1000) / 1000:g}"
    else:
        value, remedy = cell.sparsity, f"at most {math.floor((1 - share) * 1000) / 1000:g}"
    raise InputError(
        f"{sweep.sized_by}: {value:g}; the smallest network of the {space.granularity} space has {share:.4g} of the "
        f"dense network's {_NAMES[amount.hold]}; give {remedy}"
    )


def check_latency_bounds(cells: Sequence[Cell], space: NetworkSpace, data: Data, device: torch.device) -> None:
    """Raise an InputError if even the smallest masked network is much slower than the runs' upper bound of latency.

    Its latency is measured on ``device`` if there is such a bound.
    """
    bounds = [cell.density for cell in cells if cell.front == "latency"]
    if not bounds or not isinstance(space, RemovableSpace):
        return
    units = [layer.start + np.arange(kept) for layer, kept in zip(space.layers, space.least_kept, strict=True)]
    smallest = Mask.of_units(space, np.concatenate(units))
    model = build_model(cells[0].settings.sweep.model, data, seed=0).to(device)
    measure = LatencyShare(model, space, data.example(1))
    share = min(measure(smallest) for _ in range(_MEASUREMENTS))
    if share > _TOLERANCE * min(bounds):
        raise InputError(
            f"max_latency: {min(bounds):g}; the smallest network of the {space.granularity} space takes {share:.3g} of "
            f"the dense network's time; give at least {math.ceil(share * 100) / 100:g}"
        )
