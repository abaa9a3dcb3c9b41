"""Spaces: all masks of a model at one granularity. Sizes, ranking -> mask, random masks; no networks in here."""

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from masksearch.core.layout import Layout
from masksearch.core.mask import Mask
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["Density", "Hold", "MaskSpace", "OnEmpty", "Scope"]

Hold = Literal["units", "params", "macs"]
Scope = Literal["global", "layerwise", "erk"]
OnEmpty = Literal["raise", "allow", "keep_one"]
Density = float | Mapping[str, float]


class MaskSpace(Layout):
    """All masks over a layout of units. ``weight_space`` and ``filter_space`` make those of a network.

    Everywhere, ``density`` is a float in (0, 1], spread over the layers by ``scope``, or one float per layer name. The
    number of kept units is exact: round(density x n_units), shared out by largest remainder.

    ``on_empty`` says what happens when a mask would keep nothing of a layer and so cut the network: ``raise`` an error,
    ``allow`` it, or ``keep_one`` unit there and drop the worst one elsewhere.
    """

    def count(self, density: Density) -> int:
        """Number of units that a mask of this density keeps.

        Raises
        ------
        InputError
            If a density lies outside (0, 1], names an unknown layer or leaves one out, or if fewer units than layers
            would be kept, so that some layer is empty whatever the mask.
        """
        if isinstance(density, Mapping):
            names = [layer.name for layer in self.layers]
            for name in density:
                choose("layer in density", name, names)
            missing = [name for name in names if name not in density]
            if missing:
                raise InputError(f"density: no value for layer {missing[0]!r}; every layer of the space needs one")
            for name, value in density.items():
                _check_density(value, f"density of layer {name!r}", allow_zero=True)
            kept = round(sum(density[layer.name] * layer.size for layer in self.layers))
        else:
            _check_density(density, "density")
            kept = round(density * self.n_units)
        if kept < len(self.layers):
            raise InputError(
                f"density: {density} keeps {kept} of {self.n_units} units, fewer than the {len(self.layers)} layers; "
                f"at least {len(self.layers) / self.n_units:.3g} is needed"
            )
        return kept

    def quotas(self, density: Density, scope: Scope = "layerwise") -> list[int]:
        """Units kept in every layer, in order of the layers, when the scope fixes them (every scope but ``global``)."""
        kept = self.count(density)
        sizes = [layer.size for layer in self.layers]
        if isinstance(density, Mapping):
            wanted = [density[layer.name] * layer.size for layer in self.layers]
        elif scope == "layerwise":
            wanted = [density * size for size in sizes]
        elif scope == "erk":
            wanted = _capped([self.erk(layer) * layer.size for layer in self.layers], sizes, kept)
        else:
            raise InputError(
                f"scope: {scope!r} doesn't fix the layers' densities; layerwise, erk or a density per layer does"
            )
        return _largest_remainder(wanted, sizes, kept)

    def top_k(
        self,
        saliency: Tensor,
        density: Density,
        scope: Scope = "global",
        generator: torch.Generator | None = None,
        on_empty: OnEmpty = "raise",
        hold: Hold = "units",
    ) -> Mask:
        """The mask that keeps the units of highest saliency.

        Parameters
        ----------
        saliency : float tensor (n_units,)
            Higher = keep. Infinite is fine, NaN is not.
        density, scope, on_empty
            As the class says. With a density per layer, ``scope`` plays no part.
        generator : torch.Generator, optional
            Breaks ties; by default one with seed 0, so that equal calls give equal masks.
        hold : {"units", "params", "macs"}
            What the density is a share of. Only spaces whose units differ in cost know anything but units.

        Raises
        ------
        InputError
            For a saliency of the wrong shape or with NaN, a bad density, or an emptied layer under ``raise``.
        """
        _check_choice("scope", scope, get_args(Scope))
        _check_choice("on_empty", on_empty, get_args(OnEmpty))
        if hold != "units":
            raise InputError(f"hold: {hold!r}; in a {self.granularity} space all units are equal, so hold 'units'")
        if saliency.shape != (self.n_units,):
            raise InputError(
                f"saliency: shape {tuple(saliency.shape)}; ({self.n_units},) is needed, one value per unit"
            )
        saliency = saliency.detach().cpu()
        if saliency.isnan().any():
            raise InputError(f"saliency: {int(saliency.isnan().sum())} of {self.n_units} values are NaN")
        generator = generator or torch.Generator().manual_seed(0)
        if isinstance(density, Mapping) or scope != "global":
            quotas = self.quotas(density, scope)
            runs = [_top(saliency[layer.slice], k, generator) for layer, k in zip(self.layers, quotas, strict=True)]
            bits = torch.cat(runs)
        else:
            bits = _top(saliency, self.count(density), generator)
        return self._settle_empty(bits, saliency, generator, on_empty)

    def random(
        self,
        density: Density,
        scope: Scope = "global",
        generator: torch.Generator | None = None,
        on_empty: OnEmpty = "raise",
        hold: Hold = "units",
    ) -> Mask:
        """A mask drawn uniformly among those of exactly this density (within each layer, if the scope fixes quotas).

        ``generator`` defaults to torch's global one, as in torch's own random functions.
        """
        return self.top_k(torch.rand(self.n_units, generator=generator), density, scope, generator, on_empty, hold)

    def fits(self, kept: np.ndarray, density: Density, hold: Hold) -> bool:
        """Whether masks that keep ``kept`` units of the layers, int64 (n_layers,), are within a density in cost.

        Always so for ``units``, of which a swap changes nothing.
        """
        return hold == "units"

    def share(self, mask: Mask, hold: Hold) -> float:
        """What a mask keeps of all units, or of the full network's parameters or MACs.

        Raises
        ------
        InputError
            For parameters and MACs of a space that doesn't know them.
        """
        _check_choice("cost", hold, get_args(Hold))
        if hold != "units":
            raise InputError(f"cost: {hold!r}; a {self.granularity} space knows 'units' only; give a function of masks")
        return mask.density

    def full(self) -> Mask:
        """The mask that keeps everything."""
        return Mask(self, torch.ones(self.n_units, dtype=torch.bool))

    def _settle_empty(self, bits: Tensor, saliency: Tensor, generator: torch.Generator, on_empty: OnEmpty) -> Mask:
        empty = [layer for layer in self.layers if not bits[layer.slice].any()]
        if not empty or on_empty == "allow":
            return Mask(self, bits)
        if on_empty == "raise":
            raise InputError(
                f"mask: keeps nothing of layer {empty[0].name!r} ({len(empty)} of {len(self.layers)} are empty); "
                "another scope, a higher density, or on_empty='keep_one' or 'allow'"
            )
        # The best unit of every empty layer comes in; as many of the worst kept go out, where a layer can spare one.
        spare = bits.clone()
        for layer in self.layers:
            if not bits[layer.slice].any():
                bits[layer.slice] = _top(saliency[layer.slice], 1, generator)
            else:
                kept = layer.start + bits[layer.slice].nonzero().flatten()
                spare[kept[_top(saliency[kept], 1, generator)]] = False
        candidates = spare.nonzero().flatten()
        worst = _top(-saliency[candidates], len(empty), generator)
        bits[candidates[worst]] = False
        return Mask(self, bits)


def _check_density(density: float, name: str, allow_zero: bool = False) -> None:
    if not isinstance(density, int | float) or not (0 < density <= 1 or (allow_zero and density == 0)):
        raise InputError(f"{name}: {density!r}; it must lie in {'[0' if allow_zero else '(0'}, 1]")


def _check_choice(name: str, value: str, allowed: Iterable[str]) -> None:
    choose(name, value, list(allowed))


def _top(saliency: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Bool tensor that marks the k highest values; among equals at the border, ``generator`` chooses."""
    n = len(saliency)
    if k in (0, n):
        return torch.full((n,), k == n)
    values = (saliency.float() if saliency.dtype == torch.bfloat16 else saliency).numpy()  # selects 50 times faster
    border = np.partition(values, n - k)[n - k]
    bits = values > border
    equal = np.flatnonzero(values == border)
    chosen = torch.randperm(len(equal), generator=generator)[: k - np.count_nonzero(bits)]
    bits[equal[chosen.numpy()]] = True
    return torch.from_numpy(bits)


def _capped(weights: list[float], sizes: list[int], total: int) -> list[float]:
    """Share ``total`` in proportion to ``weights``, no share above its size; the excess is shared out again."""
    full: set[int] = set()
    while True:
        free = [i for i in range(len(sizes)) if i not in full]
        if not free:
            return [float(size) for size in sizes]
        scale = (total - sum(sizes[i] for i in full)) / sum(weights[i] for i in free)
        over = {i for i in free if scale * weights[i] > sizes[i]}
        if not over:
            return [float(sizes[i]) if i in full else scale * weights[i] for i in range(len(sizes))]
        full |= over


def _largest_remainder(wanted: list[float], sizes: list[int], total: int) -> list[int]:
    """Whole numbers near ``wanted`` with sum ``total``, none above its size (Hamilton's method)."""
    shares = [min(int(value), size) for value, size in zip(wanted, sizes, strict=True)]
    order = sorted(range(len(shares)), key=lambda i: (shares[i] - wanted[i], i))
    while sum(shares) < total:
        for i in order:
            if sum(shares) < total and shares[i] < sizes[i]:
                shares[i] += 1
    return shares
