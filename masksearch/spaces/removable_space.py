"""Base class of the spaces whose units pruning removes: costs of pruned networks, and masks within a cost."""

from abc import abstractmethod
from typing import get_args

import numpy as np

from masksearch.core.amount import Amount, Density, Hold
from masksearch.core.mask import Mask
from masksearch.spaces.network_space import NetworkSpace
from masksearch.utils.registry import choose

__all__ = ["RemovableSpace"]


class RemovableSpace(NetworkSpace):
    """Base class of spaces whose units pruning removes, such as filters, so that masks save parameters and MACs."""

    removes_parts = True

    @abstractmethod
    def cost_of(self, kept: np.ndarray, hold: Hold) -> int:
        """Return how many units, parameters or MACs remain if layers keep ``kept`` units, int64 (n_layers,)."""

    def kept_params(self, mask: Mask) -> int:
        """Return how many parameters the network has after physical pruning by a mask."""
        return self.cost_of(mask.kept_counts, "params")

    def kept_macs(self, mask: Mask) -> int:
        """Return how many MACs per input the network needs after physical pruning by a mask.

        1 MAC = 2 FLOPs of ``torch.utils.flop_counter``.
        """
        return self.cost_of(mask.kept_counts, "macs")

    def share(self, mask: Mask, hold: Hold) -> float:
        """Return the share of the full network's units, parameters or MACs that a mask keeps."""
        choose("cost", hold, list(get_args(Hold)))
        return self.cost_of(mask.kept_counts, hold) / self.cost_of(self.sizes, hold)

    def fits(self, kept: np.ndarray, density: Density | Amount, hold: Hold | None = None) -> bool:
        """Return whether masks with ``kept`` units per layer, int64 (n_layers,), cost no more than the density allows.

        ``hold`` is the quantity that the density is a share of. For ``"units"`` the result is True, except in spaces
        with ``multiple_of``, where masks may keep fewer units.
        """
        amount = Amount.of(density, hold=hold)
        if amount.hold == "units":
            return self._within_count(kept, amount)
        return self.cost_of(kept, amount.hold) <= self.allowed(amount)

    def allowed(self, amount: Amount) -> float:
        """Return the largest number of parameters or MACs that an amount allows.

        Raises
        ------
        InputError
            If the amount has a density per layer.
        """
        density = amount.single(f"hold {amount.hold!r} needs one density")
        return density * self.cost_of(self.sizes, amount.hold)
