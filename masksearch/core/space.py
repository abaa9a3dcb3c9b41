"""Mask spaces: all pruning masks of a network at one granularity. A space turns saliencies of units into masks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from masksearch.core.density_allocation import Amount, Density, Hold, OnEmpty, Scope
from masksearch.core.layout import Layout
from masksearch.core.limits import Limits
from masksearch.core.mask import Mask
from masksearch.utils.errors import InputError, check_type
from masksearch.utils.registry import choose

_LAYERWISE = Amount(1.0, scope="layerwise")


class MaskSpace(Layout):
    """Space of all pruning masks of a network; it makes random masks, and masks of the most salient units.

    A unit is what one mask bit switches: a weight, or a group of channels. ``weight_space`` and ``filter_space`` make
    the space of a network. A ``density`` is a float in (0, 1], one float per layer name, or an
    :class:`~masksearch.Amount`, which also states the quantity that the density is a share of (``hold``),
    its distribution over layers (``scope``) and the treatment of layers without kept units (``on_empty``). The number
    of kept units is exact.
    """

    fixed_density: float | None = None
    """The only density that masks of this space can have; None: any density."""

    def count(self, density: Density | Amount | None = None, *, sparsity: Density | None = None) -> int:
        """Return how many units a mask of the given density, or of the given sparsity, keeps in all layers together.

        Raises
        ------
        InputError
            If a density lies outside (0, 1], names an unknown layer or leaves one out, or if fewer units than layers
            would be kept, so that every mask empties a layer.
        """
        return Amount.of(density, sparsity=sparsity).count(self)

    def quotas(
        self, density: Density | Amount | None = None, scope: Scope | None = None, *, sparsity: Density | None = None
    ) -> list[int]:
        """Return how many units a mask of the given density keeps in each layer, in order of the layers.

        Parameters
        ----------
        density, sparsity : float or {layer name: float}
            Exactly one of the two is given; sparsity is 1 - density.
        scope : {"layerwise", "erk"}, optional
            Distribution of the density over layers, for a single float. Default: ``"layerwise"``.

        Raises
        ------
        InputError
            For scopes ``"global"`` and ``"isomorphic"``, which do not fix the layers' numbers, and for the errors of
            :meth:`count`.
        """
        return Amount.of(density, sparsity=sparsity, scope=scope, default=_LAYERWISE).quotas(self)

    def top_k(
        self,
        saliency: Tensor,
        density: Density | Amount | None = None,
        scope: Scope | None = None,
        generator: torch.Generator | None = None,
        on_empty: OnEmpty | None = None,
        hold: Hold | None = None,
        *,
        sparsity: Density | None = None,
    ) -> Mask:
        """Return the mask that keeps the units of highest saliency at the requested density.

        Parameters
        ----------
        saliency : float tensor (n_units,)
            Higher = keep. Values may be infinite, but not NaN.
        density : float, {layer name: float} or Amount, optional
            Kept / total. Exactly one of ``density`` and ``sparsity`` is given; none in an N:M space, whose masks have
            one density.
        scope, on_empty, hold : str, optional
            Fields of an :class:`~masksearch.Amount`: ``"global"``, ``"raise"`` and ``"units"`` by default.
            They are refused beside an ``Amount``. Only filter spaces allow shares of parameters and MACs in ``hold``.
        generator : torch.Generator, optional
            Breaks ties; by default a generator with seed 0, so that equal calls return equal masks.
        sparsity : float or {layer name: float}, optional
            1 - density.

        Raises
        ------
        InputError
            For a saliency of the wrong shape or with NaN, an invalid density, or an empty layer under ``raise``.
        """
        if density is None and sparsity is None:
            density = self.fixed_density
        amount = Amount.of(density, sparsity=sparsity, hold=hold, scope=scope, on_empty=on_empty)
        check_type("saliency", saliency, Tensor, f"a tensor ({self.n_units},), one value per unit")
        if saliency.dtype == torch.bool or saliency.is_complex():
            raise InputError(f"saliency: {saliency.dtype}; real numbers are needed, which rank the units")
        if saliency.shape != (self.n_units,):
            raise InputError(
                f"saliency: shape {tuple(saliency.shape)}; ({self.n_units},) is needed, one value per unit"
            )
        saliency = saliency.detach().cpu()
        if saliency.isnan().any():
            raise InputError(f"saliency: {int(saliency.isnan().sum())} of {self.n_units} values are NaN; none may be")
        generator = generator or torch.Generator().manual_seed(0)
        if amount.scope == "isomorphic":
            saliency, amount = self._quantiles(saliency, self.topologies, generator), amount.across("global")
        if self.limits is not None:
            return self._limited(saliency, amount, generator, self.limits)
        return self._top(saliency, amount, generator)

    from_saliency = top_k

    def random(
        self,
        density: Density | Amount | None = None,
        scope: Scope | None = None,
        generator: torch.Generator | None = None,
        on_empty: OnEmpty | None = None,
        hold: Hold | None = None,
        *,
        sparsity: Density | None = None,
    ) -> Mask:
        """Return a mask drawn uniformly among the masks of the requested density.

        If the scope fixes the layers' densities, the draw is uniform within each layer. The parameters are those of
        :meth:`top_k`, but ``generator`` defaults to torch's global one, as in torch's own random functions.
        """
        saliency = torch.rand(self.n_units, generator=generator)
        return self.top_k(saliency, density, scope, generator, on_empty, hold, sparsity=sparsity)

    def fits(self, kept: np.ndarray, density: Density | Amount, hold: Hold | None = None) -> bool:
        """Return whether a mask with ``kept`` units per layer keeps at most the allowed share of parameters or MACs.

        Always True for ``hold="units"``, because the swaps of a search do not change the number of units; but in a
        space with ``multiple_of``, where they do, masks may keep fewer units.

        Parameters
        ----------
        kept : int64 (n_layers,)
            Kept units of every layer.
        hold : {"units", "params", "macs"}, optional
            The quantity that the density is a share of. Default: ``"units"``.
        """
        amount = Amount.of(density, hold=hold)
        return amount.hold == "units" and self._within_count(kept, amount)

    def cost_of(self, kept: np.ndarray, hold: Hold) -> int:
        """Return how many units, parameters or MACs (as ``hold`` says) remain if layers keep ``kept`` units each."""
        if hold != "units":
            raise InputError(f"cost: {hold!r}; a {self.granularity} space counts only 'units'; give a function")
        return int(kept.sum())

    def share(self, mask: Mask, hold: Hold) -> float:
        """Return the share that a mask keeps of the full network's units, parameters or MACs, as ``hold`` says.

        Raises
        ------
        InputError
            For parameters and MACs, if the space can't count them.
        """
        choose("cost", hold, list(get_args(Hold)))
        if hold != "units":
            raise InputError(f"cost: {hold!r}; a {self.granularity} space counts only 'units'; give a function")
        return mask.density

    def full(self) -> Mask:
        """Return the mask that keeps all units."""
        return Mask(self, torch.ones(self.n_units, dtype=torch.bool))

    def check_mask(self, mask: Mask) -> None:
        """Raise an :class:`InputError` if a mask is of another space than this one, or of other layers."""
        check_type("mask", mask, Mask, "a mask of this space")
        if mask.space is not self and mask.space.fingerprint != self.fingerprint:
            raise InputError(f"mask of a {mask.space.describe()}; it doesn't fit this {self.describe()}")

    def _within_count(self, kept: np.ndarray, amount: Amount) -> bool:
        """Return whether layers keep at most as many units as the amount allows, where moves may change the number."""
        free = self.limits is not None and self.limits.stepped and amount.per_layer is None
        return not free or int(kept.sum()) <= amount.count(self)

    def _quantiles(self, saliency: Tensor, groups: Sequence[str], generator: torch.Generator) -> Tensor:
        """Replace saliencies (n_units,) by quantiles within groups of layers: float64, in (0, 1), higher = keep.

        ``groups`` has one text per layer; layers with equal texts form a group. The top units of the quantiles keep the
        same share of every group, with the total rounded as Webster's method of apportionment does.
        """
        numbers = {text: number for number, text in enumerate(dict.fromkeys(groups))}
        group = np.repeat([numbers[text] for text in groups], self.sizes)
        shuffled = torch.randperm(self.n_units, generator=generator).numpy()
        order = np.lexsort((shuffled, saliency.double().numpy(), group))
        sizes = np.bincount(group)
        firsts = np.repeat(np.cumsum(sizes) - sizes, sizes)
        quantiles = np.empty(self.n_units)
        quantiles[order] = (np.arange(self.n_units) - firsts + 0.5) / np.repeat(sizes, sizes)
        return torch.from_numpy(quantiles)

    def _top(self, saliency: Tensor, amount: Amount, generator: torch.Generator) -> Mask:
        """Return the mask of the units of highest saliency (n_units,), on the CPU without NaN.

        Spaces that can hold parameters and MACs override this method.
        """
        if amount.hold != "units":
            raise InputError(
                f"hold: {amount.hold!r}; a {self.granularity} space allows only 'units', since its units cost the same"
            )
        if amount.fixes_layers:
            quotas = amount.quotas(self)
            runs = [_highest(saliency[layer.slice], k, generator) for layer, k in zip(self.layers, quotas, strict=True)]
            bits = torch.cat(runs)
        else:
            bits = _highest(saliency, amount.count(self), generator)
        return self._settle_empty(bits, saliency, generator, amount.on_empty)

    def _limited(self, saliency: Tensor, amount: Amount, generator: torch.Generator, limits: Limits) -> Mask:
        """Return the mask of the units of highest saliency among the masks that the limits of the space allow.

        The density is an upper limit: steps are added in the order of their mean rank, while they fit.
        """
        shuffled = torch.randperm(self.n_units, generator=generator).numpy()
        order = np.lexsort((shuffled, saliency.double().numpy()))
        rank = np.empty(self.n_units)
        rank[order] = np.arange(self.n_units)
        ranked = [layer.start + np.argsort(-rank[layer.slice]) for layer in self.layers]
        if amount.hold == "units" and amount.fixes_layers:
            kept = np.array(amount.quotas(self))
        elif amount.hold == "units":
            count = amount.count(self)
            kept = limits.fill([rank[units] for units in ranked], lambda kept: kept.sum() <= count, f"{count} units")
        else:
            ranks = [rank[units] for units in ranked]
            if amount.fixes_layers:
                ranks = limits.even(replace(amount, hold="units").quotas(self))
            what = f"{amount.density} of the {amount.hold}"
            kept = limits.fill(ranks, lambda kept: self.fits(kept, amount), what)
        return Mask.of_units(self, np.concatenate([units[:k] for units, k in zip(ranked, kept, strict=True)]))

    def _settle_empty(self, bits: Tensor, saliency: Tensor, generator: torch.Generator, on_empty: OnEmpty) -> Mask:
        layers = [layer for layer, needed in zip(self.layers, self.needed, strict=True) if needed]
        empty = [layer for layer in layers if not bits[layer.slice].any()]
        if not empty or on_empty == "allow":
            return Mask(self, bits)
        if on_empty == "raise":
            raise InputError(
                f"mask: keeps nothing of layer {empty[0].name!r} ({len(empty)} of {len(self.layers)} are empty); "
                "give another scope, a higher density, or on_empty='keep_one' or 'allow'"
            )
        # The best unit of every empty layer is kept. As many of the worst kept units are dropped, but never the best
        # kept unit of a layer, so that no other layer becomes empty.
        spare = bits.clone()
        for layer in layers:
            if not bits[layer.slice].any():
                bits[layer.slice] = _highest(saliency[layer.slice], 1, generator)
            else:
                kept = layer.start + bits[layer.slice].nonzero().flatten()
                spare[kept[_highest(saliency[kept], 1, generator)]] = False
        candidates = spare.nonzero().flatten()
        worst = _highest(-saliency[candidates], len(empty), generator)
        bits[candidates[worst]] = False
        return Mask(self, bits)


def _highest(saliency: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Return a bool tensor that marks the k highest values; among equal values at the border, ``generator`` draws."""
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
