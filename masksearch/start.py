"""Where a search starts: a mask that fits its density, or the one of a saliency."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from masksearch.errors import InputError
from masksearch.mask import Mask
from masksearch.space import Density, Hold, MaskSpace, OnEmpty

__all__ = ["start_mask"]


def start_mask(
    start: Mask | Tensor | None, space: MaskSpace, density: Density, on_empty: OnEmpty, hold: Hold, *, up_to: bool
) -> Mask | None:
    """The mask that a search begins with, of a mask or a saliency (n_units,); None for none.

    Parameters
    ----------
    up_to : bool
        Whether it may keep less than the density says.

    Raises
    ------
    InputError
        If it doesn't fit the space or the density, or empties a layer that may not be empty.
    """
    if isinstance(start, Tensor):
        return space.top_k(start, density, on_empty=on_empty, hold=hold)
    if start is None:
        return None
    if start.space.fingerprint != space.fingerprint:
        raise InputError(f"start: a mask of a {start.space.describe()}; it doesn't fit this {space.describe()}")
    if on_empty != "allow" and start.empty_layers():
        raise InputError(
            f"start: keeps nothing of layer {start.empty_layers()[0]!r}; on_empty={on_empty!r} forbids that"
        )
    if hold != "units":
        kept = np.array(list(start.kept_per_layer().values()))
        if not space.fits(kept, density, hold):
            raise InputError(f"start: costs more than density {density} of the {hold}")
    elif start.n_kept > space.count(density) or (start.n_kept < space.count(density) and not up_to):
        raise InputError(f"start: keeps {start.n_kept} units, density {density} keeps {space.count(density)}")
    elif isinstance(density, Mapping):
        _check_layers(start, space, density, on_empty)
    return start


def _check_layers(start: Mask, space: MaskSpace, density: Density, on_empty: OnEmpty) -> None:
    """That a start keeps of every layer what its density says (a unit more or less, where emptied ones keep one)."""
    quotas = space.quotas(density)
    if on_empty != "allow" and not all(quotas):
        return
    for (name, kept), quota in zip(start.kept_per_layer().items(), quotas, strict=True):
        if kept != quota:
            raise InputError(f"start: keeps {kept} units of layer {name!r}, and its density keeps {quota}")
