"""Base class of the spaces whose units pruning removes: pruned networks, their tensors and their costs."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.density_allocation import Amount, Density, Hold
from masksearch.core.mask import Mask
from masksearch.spaces.base_space import NetworkSpace
from masksearch.spaces.block_removal import Replacements
from masksearch.utils.registry import choose


class RemovableSpace(NetworkSpace):
    """Base class of spaces whose units pruning removes, such as filters, so that masks save parameters and MACs."""

    removes_parts = True

    @property
    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {parameter or buffer of the full network: shape}."""

    @abstractmethod
    def without_units(self, model: nn.Module, mask: Mask) -> nn.Module:
        """Return a copy of the network without the units that the mask prunes.

        Raises
        ------
        InputError
            If the mask or the model is not of this space, or the mask keeps nothing of a layer that must stay.
        """

    def replacements(self, mask: Mask) -> Replacements:
        """Return {module name: description, for JSON, of its replacement} for the modules that a mask removes."""
        return {}

    def shapes_left(self, mask: Mask) -> dict[str, tuple[int, ...]]:
        """Return {parameter or buffer: shape} of the network after pruning by a mask."""
        self.check_mask(mask)
        replacements = self.replacements(mask)
        gone = tuple(f"{module}." for module in replacements)
        left = tuple(
            f"{module}.{name}."
            for module, spec in replacements.items()
            for kind, name in spec.get("steps", ())
            if kind == "module"
        )
        shapes = self._cut_shapes(mask)
        return {name: shape for name, shape in shapes.items() if not name.startswith(gone) or name.startswith(left)}

    def _cut_shapes(self, mask: Mask) -> dict[str, tuple[int, ...]]:
        """Return {parameter or buffer: shape} of the network without the channels that a mask prunes."""
        return self.shapes

    def restored(self, mask: Mask, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict of the pruned network in the full network's sizes, with zeros for removed parts."""
        example = next(iter(state.values()))
        gone = self.shapes.keys() - self.shapes_left(mask).keys()
        return dict(state) | {name: example.new_zeros(self.shapes[name]) for name in sorted(gone)}

    @abstractmethod
    def cost_of(self, kept: np.ndarray, hold: Hold) -> int:
        """Return the units, parameters or MACs (chosen by ``hold``) of a network with ``kept[i]`` units in layer i."""

    @property
    def least_kept(self) -> np.ndarray:
        """Return the kept units per layer, int64 (n_layers,), of the smallest network that masks of the space leave."""
        return self.needed * (1 if self.limits is None else self.limits.lowest)

    def unit_costs(self, hold: Hold = "params") -> Tensor:
        """Return the parameters or MACs (chosen by ``hold``) that removing each unit saves: float64 (n_units,)."""
        choose("hold", hold, list(get_args(Hold)))
        full = self.cost_of(self.sizes, hold)
        saved = [full - self.cost_of(self._without_one(place), hold) for place in range(len(self.layers))]
        return torch.from_numpy(np.repeat(np.array(saved, dtype=np.float64), self.sizes))

    def _without_one(self, place: int) -> np.ndarray:
        """Return the numbers of kept units per layer, int64 (n_layers,), if one unit of a layer is removed."""
        kept = self.sizes.copy()
        kept[place] -= 1
        return kept

    def kept_params(self, mask: Mask) -> int:
        """Return how many parameters the network has after physical pruning by a mask."""
        return self.cost_of(mask.kept_counts, "params")

    def kept_macs(self, mask: Mask) -> int:
        """Return how many MACs per input the network needs after physical pruning by a mask.

        1 MAC = 2 FLOPs of ``torch.utils.flop_counter``.
        """
        return self.cost_of(mask.kept_counts, "macs")

    def share(self, mask: Mask, hold: Hold) -> float:
        """Return the share of the full network's units, parameters or MACs (chosen by ``hold``) that a mask keeps."""
        choose("cost", hold, list(get_args(Hold)))
        return self.cost_of(mask.kept_counts, hold) / self.cost_of(self.sizes, hold)

    def fits(self, kept: np.ndarray, density: Density | Amount, hold: Hold | None = None) -> bool:
        """Return whether masks with ``kept[i]`` units in layer i cost no more than ``density`` allows.

        ``hold`` is the quantity that the density is a share of. For ``"units"`` the result is True, except in spaces
        with ``multiple_of``, where masks may keep fewer units.
        """
        amount = Amount.of(density, hold=hold)
        if amount.hold == "units":
            return self._within_count(kept, amount)
        return self.cost_of(kept, amount.hold) <= self.allowed(amount)

    def allowed(self, amount: Amount) -> float:
        """Return the largest number of parameters or MACs that the density in ``amount`` allows.

        Raises
        ------
        InputError
            If the amount has a density per layer.
        """
        density = amount.single(f"hold {amount.hold!r} needs one density")
        return density * self.cost_of(self.sizes, amount.hold)
