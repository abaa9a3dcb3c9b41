"""Level database: repairs of each family (layers pruned together) at about ten densities, combined into networks.

The idea is that of SPDY (Frantar and Alistarh 2022) and ZipLM (Kurtic et al. 2023). An entry belongs to the layers that
read the outputs of one family. Outputs that another family's level removes are sliced from it.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.pruning.reconstruction import Reconstruction
from masksearch.utils.errors import InputError

DENSITIES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Usual levels: the shares of a family's units that are kept."""


class LevelDatabase:
    """Masks and repaired networks for densities chosen from a list, one density per group of layers pruned together.

    A family is a group of layers whose channels are pruned together. Within a family, the units of highest saliency are
    kept, at least one. Layers that read several families have a solution per combination of their levels, which is
    computed when it is first used.

    Parameters
    ----------
    reconstruction : Reconstruction
        Repair of the network; its cache holds the solutions. A scorer may share it (``calibration=``).
    saliency : Tensor (n_units,)
        Ranks the units of every family: higher = kept longer.
    densities : sequence of float
        Levels, in falling order, each in (0, 1]; the first is level 0.

    Raises
    ------
    InputError
        If the saliency has another size than the space, or densities do not fall or lie outside (0, 1].
    """

    def __init__(
        self, reconstruction: Reconstruction, saliency: Tensor, densities: Sequence[float] = DENSITIES
    ) -> None:
        space = reconstruction.space
        if saliency.shape != (space.n_units,):
            raise InputError(
                f"saliency: shape {tuple(saliency.shape)}; this {space.describe()} needs ({space.n_units},)"
            )
        falling = all(high > low for high, low in pairwise(densities))
        if not densities or not falling or not 0 < densities[-1] <= densities[0] <= 1:
            raise InputError(f"densities: {tuple(densities)}; falling numbers in (0, 1] are needed")
        self.reconstruction, self.space, self.densities = reconstruction, space, tuple(densities)
        self._orders = [saliency[layer.slice].argsort(descending=True, stable=True) for layer in space.layers]

    @property
    def kept(self) -> Tensor:
        """Number of kept channels per group of layers pruned together, at each density: int64 (groups, densities)."""
        sizes = torch.tensor([layer.size for layer in self.space.layers], dtype=torch.float64)
        return (sizes[:, None] * torch.tensor(self.densities, dtype=torch.float64)).round().long().clamp_min(1)

    def mask(self, levels: Sequence[int]) -> Mask:
        """Return the mask for one density per group of layers pruned together: ``densities[levels[i]]`` for group i.

        Raises
        ------
        InputError
            For another number of levels than families, or an unknown level.
        """
        n, last = len(self.space.layers), len(self.densities) - 1
        if len(levels) != n or not all(0 <= level <= last for level in levels):
            raise InputError(f"levels: {list(levels)}; {n} numbers from 0 to {last} are needed, one per layer")
        bits = torch.zeros(self.space.n_units, dtype=torch.bool)
        for layer, order, kept, level in zip(self.space.layers, self._orders, self.kept, levels, strict=True):
            bits[layer.start + order[: int(kept[level])]] = True
        return Mask(self.space, bits)

    def network(self, levels: Sequence[int], *, small: bool = False) -> nn.Module:
        """Return the repaired network with density ``densities[levels[i]]`` in group i of layers pruned together."""
        return self.reconstruction(self.mask(levels), small=small)

    def errors(self) -> Tensor:
        """Return the output error after repair if layer group i alone is pruned, to density j: (groups, densities).

        The result is float64. A family is a group of layers pruned together. The error is 0 at a level of density 1.
        The error is the relative squared error after repair of the layers that read the family (ZipLM), summed over
        them, where no other family loses units. Computing it fills the database.
        """
        errors = torch.zeros(len(self.space.layers), len(self.densities), dtype=torch.float64)
        for family in range(len(errors)):
            for level in range(len(self.densities)):
                bits = torch.ones(self.space.n_units, dtype=torch.bool)
                layer, kept = self.space.layers[family], int(self.kept[family, level])
                bits[layer.start + self._orders[family][kept:]] = False
                errors[family, level] = sum(self.reconstruction.errors(Mask(self.space, bits)).values())
        return errors
