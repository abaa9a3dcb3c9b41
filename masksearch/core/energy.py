"""Protocol of energies: costs of masks that are cheap to update when a few units are pruned or kept again."""

from abc import abstractmethod
from typing import Protocol

import numpy as np

from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace

__all__ = ["Energy", "EnergyState", "removal_order"]


class EnergyState(Protocol):
    """Current mask of a walk and its energy, with the change of the energy by moves that are not made yet.

    To toggle a unit is to prune it if the mask keeps it, and to keep it again if the mask prunes it.
    """

    bits: np.ndarray
    """The current mask, bool (n_units,), True = kept. Read only."""

    @property
    @abstractmethod
    def value(self) -> float:
        """Energy of the current mask: the sum over terms of coefficient x term. Lower is better."""

    @abstractmethod
    def terms(self) -> np.ndarray:
        """Return the terms of the energy without their coefficients: float64 (n_terms,)."""

    @abstractmethod
    def singles(self, layer: int) -> np.ndarray:
        """Return the change of the energy if each unit of a layer is toggled alone: float64 (layer size,)."""

    @abstractmethod
    def deltas(self, units: np.ndarray) -> np.ndarray:
        """Return the change of the energy by each of m moves, float64 (m,); the current mask stays.

        Parameters
        ----------
        units : int64 (m, r)
            The units that each move toggles together. Units of one column belong to one layer of the space.
        """

    @abstractmethod
    def toggle(self, units: np.ndarray) -> None:
        """Toggle units, int64 (r,), in the current mask."""


class Energy(Protocol):
    """Energy of the masks of a space: a sum of terms, each with a coefficient."""

    names: tuple[str, ...]
    """Names of the terms."""

    @abstractmethod
    def start(self, mask: Mask, coefficients: np.ndarray | None = None) -> EnergyState:
        """Return the state of a walk that begins at ``mask``.

        Parameters
        ----------
        coefficients : float64 (n_terms,), optional
            Factors of the terms, at least 0; by default 1.
        """


def removal_order(energy: Energy, space: MaskSpace, mask: Mask, costs: np.ndarray | None = None) -> np.ndarray:
    """Return the kept units of a mask in the order in which greedy removal on an energy prunes them: int64 (n_kept,).

    The unit of the smallest increase of the energy goes first; then the increases of the others are computed anew.
    Layers lose their last units after all other units, since an empty layer may cut the network.

    Parameters
    ----------
    costs : float64 (n_units,), optional
        What each unit saves; increases are divided by it. By default, all units save the same.
    """
    state = energy.start(mask)
    left = np.add.reduceat(state.bits.astype(np.int64), space.starts)
    order: list[int] = []
    while left.any():
        rises = {}
        for layer in np.flatnonzero(left > 1 if (left > 1).any() else left).tolist():
            units = space.layers[layer].start + np.flatnonzero(state.bits[space.layers[layer].slice])
            changes = state.singles(layer)[units - space.layers[layer].start]
            changes = changes if costs is None else changes / costs[units]
            rises[layer] = (float(changes.min()), int(units[changes.argmin()]))
        layer = min(rises, key=rises.__getitem__)
        order.append(rises[layer][1])
        left[layer] -= 1
        state.toggle(np.array(order[-1:]))
    return np.array(order, dtype=np.int64)
