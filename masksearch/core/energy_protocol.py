"""Protocol of energies: cheap estimates of how much a mask damages a network, without running the network."""

from abc import abstractmethod
from typing import Protocol

import numpy as np

from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace


class EnergyState(Protocol):
    """Current mask of a local search, its energy (estimated damage), and the energy's change by possible moves.

    To toggle a unit is to prune it if the mask keeps it, and to keep it again if the mask prunes it.
    """

    bits: np.ndarray
    """The current mask, bool (n_units,), True = kept. Read only."""

    @property
    @abstractmethod
    def value(self) -> float:
        """Return the current mask's energy (estimated damage): the weighted sum of its terms. Lower is better."""

    @abstractmethod
    def terms(self) -> np.ndarray:
        """Return the unweighted terms of the current mask's energy (estimated damage): float64 (n_terms,)."""

    @abstractmethod
    def singles(self, layer: int) -> np.ndarray:
        """Return, for each unit of a layer, the change of the estimated damage if it alone is pruned or restored.

        The shape is (units of the layer,). A kept unit is pruned, and a pruned unit is kept again.
        """

    @abstractmethod
    def deltas(self, units: np.ndarray) -> np.ndarray:
        """Return how each of several moves would change the energy (estimated damage): float64 (n_moves,).

        No move is made.

        Parameters
        ----------
        units : int64 (n_moves, r)
            The units that each move toggles together. Units of one column belong to one layer of the space.
        """

    @abstractmethod
    def toggle(self, units: np.ndarray) -> None:
        """Change the current mask at given unit indices, int64 (r,): prune kept units, restore pruned units."""


class Energy(Protocol):
    """Energy of a mask: a weighted sum of terms that estimates how much the mask damages the network."""

    names: tuple[str, ...]
    """Names of the terms whose weighted sum is the energy (estimated damage) of a mask."""

    @abstractmethod
    def start(self, mask: Mask, coefficients: np.ndarray | None = None) -> EnergyState:
        """Return the state of a local search that begins at ``mask``: the mask and its energy, updated per move.

        Parameters
        ----------
        coefficients : float64 (n_terms,), optional
            Factors of the terms, at least 0; by default 1.
        """


def removal_order(energy: Energy, space: MaskSpace, mask: Mask, costs: np.ndarray | None = None) -> np.ndarray:
    """Return a mask's kept units, int64 (n_kept,), in the order in which greedy pruning removes them.

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
