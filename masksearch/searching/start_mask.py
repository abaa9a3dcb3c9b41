"""The mask that a search starts from, checked against the space and the amount of the search."""

import numpy as np
from torch import Tensor

from masksearch.core.density_allocation import Amount
from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError, check_type


def start_mask(start: Mask | Tensor | None, space: MaskSpace, amount: Amount, *, up_to: bool) -> Mask | None:
    """Return the mask that a search starts from: ``start``, or the top units if it is a saliency; None without it.

    Parameters
    ----------
    up_to : bool
        Whether the mask may keep less than the amount.

    Raises
    ------
    InputError
        If the mask doesn't fit the space or the amount, or empties a layer that may not be empty.
    """
    density, hold, on_empty = amount.density, amount.hold, amount.on_empty
    if start is not None:
        check_type("start", start, (Mask, Tensor), "a mask, or a saliency (n_units,)")
    if isinstance(start, Tensor):
        return space.top_k(start, amount)
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
        if not space.fits(kept, amount):
            raise InputError(f"start: the mask costs more {hold} than density {density} allows; give a cheaper mask")
    elif start.n_kept > (count := amount.count(space)) or (start.n_kept < count and not up_to):
        raise InputError(f"start: the mask keeps {start.n_kept} units, and density {density} needs {count}")
    elif amount.per_layer is not None:
        _check_layers(start, space, amount)
    return start


def _check_layers(start: Mask, space: MaskSpace, amount: Amount) -> None:
    """Raise an error unless the start has the layers' quotas; a quota of 0 is only checked where layers may be empty.

    Where no layer may be empty, a quota of 0 becomes 1 at the cost of another layer.
    """
    quotas = amount.quotas(space)
    if amount.on_empty != "allow" and not all(quotas):
        return
    for (name, kept), quota in zip(start.kept_per_layer().items(), quotas, strict=True):
        if kept != quota:
            raise InputError(
                f"start: the mask keeps {kept} units of layer {name!r}, and the layer's density needs {quota}"
            )
