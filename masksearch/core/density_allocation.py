"""How much a mask keeps: a density, what it is a share of, how layers share it, and what happens to empty layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from masksearch.core.layout import Layout
from masksearch.utils.errors import InputError, check_real
from masksearch.utils.registry import choose

Hold = Literal["units", "params", "macs"]
"""What a density is a share of: units, or the full network's parameters or MACs."""

Scope = Literal["global", "layerwise", "erk", "isomorphic", "knapsack"]
"""How a density is spread over layers: by one ranking of all units, equally, by ERK (Evci et al. 2020), by one ranking
in each group of layers that look alike, equally over groups (Fang et al. 2024), or by knapsack.

The knapsack keeps the units of the largest sum of saliencies within the budget (HALP, Shen et al. 2022)."""

OnEmpty = Literal["raise", "allow", "keep_one"]
"""What happens if a mask would keep no unit of a layer: raise an error, allow the mask, or keep one unit."""

Density = float | Mapping[str, float]
"""Share of units that a mask keeps, in (0, 1]; or {layer name: share in [0, 1]}."""


class DensityTooLowError(InputError):
    """InputError for a density below that of the smallest mask.

    Parameters
    ----------
    density : float or {layer name: float}
        Value of the density.
    why : str
        Text behind the value in the message.
    """

    def __init__(self, density: Density, why: str) -> None:
        self._why = why
        super().__init__(f"density: {density} {why}; give a higher density")

    def of_target(self, name: str, value: float) -> InputError:
        """Return the error for the target that gave the density: ``sparsity``, ``macs``, ``params`` or ``latency``."""
        return InputError(f"{name}: {value} {self._why}; give a {'lower' if name == 'sparsity' else 'higher'} {name}")


@dataclass(frozen=True)
class Amount:
    """How much a mask keeps: a share of all units, parameters or MACs, and how this share is split over layers.

    Every function that takes a ``density`` also takes an ``Amount`` in its place. ``Amount.of(sparsity=0.9)`` makes one
    from 1 - density.

    Parameters
    ----------
    density : float or {layer name: float}
        Kept / total, in (0, 1], or one value in [0, 1] per layer. The number of kept units is exact:
        round(density x n_units), shared out over layers by largest remainder.
    hold : {"units", "params", "macs"}
        What the density is a share of. In parameters and MACs, a mask is the longest prefix of the ranking that fits.
    scope : {"global", "layerwise", "erk", "isomorphic", "knapsack"}
        How one density is spread over layers. A density per layer leaves nothing to spread: ``scope`` is ignored.
        ``isomorphic`` ranks only units of layers that look alike together (equal ``space.topologies``: the same kinds
        of coupled tensors, of any size); each group of such layers keeps the same share (Fang et al. 2024). In units,
        the knapsack is the global ranking, since all units cost the same.
    on_empty : {"raise", "allow", "keep_one"}
        What happens when a mask would keep nothing of a layer, which cuts the network: ``raise`` an error, ``allow``
        the mask, or ``keep_one`` unit of the layer and drop the lowest unit of another layer.

    Raises
    ------
    InputError
        For a density outside its range, an unknown name, or a density per layer that is held in parameters or MACs.
    """

    density: Density
    hold: Hold = "units"
    scope: Scope = "global"
    on_empty: OnEmpty = "raise"

    def __post_init__(self) -> None:
        choose("scope", self.scope, list(get_args(Scope)))
        choose("on_empty", self.on_empty, list(get_args(OnEmpty)))
        choose("hold", self.hold, list(get_args(Hold)))
        if not isinstance(self.density, Mapping):
            _check(self.density, "density")
            return
        for name, value in self.density.items():
            _check(value, f"density of layer {name!r}", allow_zero=True)
        if self.hold != "units":
            raise InputError(f"density: one per layer can't hold {self.hold}; give one float, or hold='units'")
        object.__setattr__(self, "density", dict(self.density))

    @classmethod
    def of(
        cls,
        density: "Density | Amount | None" = None,
        *,
        sparsity: Density | None = None,
        hold: Hold | None = None,
        scope: Scope | None = None,
        on_empty: OnEmpty | None = None,
        default: "Amount | None" = None,
    ) -> "Amount":
        """Return an Amount (how much a mask keeps) from a density or sparsity, shared by layers as ``scope`` says.

        Parameters
        ----------
        density : float, {layer name: float} or Amount, optional
            An ``Amount`` is returned as it is.
        sparsity : float or {layer name: float}, optional
            1 - density. Exactly one of ``density`` and ``sparsity`` is given.
        hold, scope, on_empty : str, optional
            Fields of the amount. An ``Amount`` has them already, so they are refused beside one.
        default : Amount, optional
            Its ``hold``, ``scope`` and ``on_empty`` stand for those that are left out.

        Raises
        ------
        InputError
            For arguments that exclude each other, a missing density, or invalid values.
        """
        companions: dict[str, Any] = {"hold": hold, "scope": scope, "on_empty": on_empty}
        given = {name: value for name, value in companions.items() if value is not None}
        if density is not None and sparsity is not None:
            raise InputError(f"sparsity: {sparsity!r} beside a density; give exactly one of the two")
        if isinstance(density, Amount):
            if given:
                name, value = next(iter(given.items()))
                raise InputError(f"{name}: {value!r} beside an Amount, which has its own {name}; give it in the Amount")
            return density
        if sparsity is not None:
            density = _density_of(sparsity)
        if density is None:
            raise InputError("density: neither density nor sparsity is given; give exactly one of the two")
        return cls(density, **given) if default is None else replace(default, density=density, **given)

    # Which kind of density.

    @property
    def per_layer(self) -> Mapping[str, float] | None:
        """Return the density of each layer as {layer name: density}; None if all layers share one density."""
        return self.density if isinstance(self.density, Mapping) else None

    @property
    def fixes_layers(self) -> bool:
        """Whether each layer's number of kept units is fixed before units are ranked, as with scope="layerwise"."""
        return self.scope in ("layerwise", "erk") or self.per_layer is not None

    def single(self, reason: str) -> float:
        """Return the density if all layers share one; if each has its own, raise an InputError with ``reason``."""
        if isinstance(self.density, Mapping):
            raise InputError(f"density: one per layer; {reason}")
        return self.density

    # Variants.

    def at(self, density: Density) -> "Amount":
        """Return a copy of this amount (how much masks keep) with another density."""
        return replace(self, density=density)

    def across(self, scope: Scope) -> "Amount":
        """Return a copy of this Amount with another ``scope``: the rule by which layers share the density."""
        return self if scope == self.scope else replace(self, scope=scope)

    def in_rounds(self, rounds: int) -> "list[Amount]":
        """Return the amount to keep after each pruning round; every round prunes the same share of what is left.

        Round r of n keeps density ** (r / n), in every layer if the density is one per layer.
        """
        return [self.at(_power(self.density, r / rounds)) for r in range(1, rounds)] + [self]

    def lenient(self) -> "Amount":
        """Return a copy of this Amount under which an empty layer gets one unit instead of raising an error."""
        return replace(self, on_empty="keep_one") if self.on_empty == "raise" else self

    def by_layer(self, layout: Layout) -> "Amount":
        """Return a copy in which scope "layerwise" or "erk" is replaced by the density that it gives each layer.

        With other scopes, or if each layer has a density already, return this Amount.

        Raises
        ------
        InputError
            For scope "isomorphic", and for other scopes with ``hold`` in parameters or MACs.
        """
        if self.scope == "isomorphic" and self.per_layer is None:
            raise InputError(
                "scope: 'isomorphic' is for rankings by a criterion, and moves of a search go between all layers; give "
                "scope 'global', or 'layerwise' for moves within layers"
            )
        if not self.fixes_layers or self.per_layer is not None:
            return self
        if self.hold != "units":
            raise InputError(f"scope: {self.scope!r} with hold {self.hold!r}; give scope 'global', or hold 'units'")
        return replace(self, density=layout.densities(self.quotas(layout)), scope="global")

    # Numbers of units.

    def count(self, layout: Layout) -> int:
        """Return how many units (weights, filters, ...) a mask at this amount keeps in all layers together.

        Raises
        ------
        InputError
            If a density per layer names an unknown layer or leaves one out, or if fewer units than layers would be
            kept, so that every mask empties a layer.
        """
        if isinstance(self.density, Mapping):
            names = [layer.name for layer in layout.layers]
            for name in self.density:
                choose("layer in density", name, names)
            missing = [name for name in names if name not in self.density]
            if missing:
                raise InputError(f"density: no value for layer {missing[0]!r}; every layer of the space needs one")
            kept = round(sum(self.density[layer.name] * layer.size for layer in layout.layers))
        else:
            kept = round(self.density * layout.n_units)
        least = max(1, int(layout.needed.sum()))
        if kept < least:
            raise DensityTooLowError(
                self.density,
                f"keeps {kept} of {layout.n_units} units, fewer than the {least} layers, which need at least "
                f"{least / layout.n_units:.3g} of the units",
            )
        return kept

    def quotas(self, layout: Layout) -> list[int]:
        """Return how many units a mask keeps in each layer; raise an error if the amount doesn't fix these numbers.

        Scopes "layerwise" and "erk" fix them, and so does a density per layer.

        Under limits of the layout, their sum may be smaller than :meth:`count`.
        """
        if layout.nested:
            raise InputError(
                f"scope: {self.scope!r}, or a density per layer; layers of a {layout.granularity} space can't have "
                "densities of their own, since whole blocks are removed: give one density with scope 'global'"
            )
        kept = self.count(layout)
        sizes = [layer.size for layer in layout.layers]
        if isinstance(self.density, Mapping):
            exact = [self.density[layer.name] * layer.size for layer in layout.layers]
        elif self.scope == "layerwise":
            exact = [self.density * size for size in sizes]
        elif self.scope == "erk":
            exact = _capped([layout.erk(layer) * layer.size for layer in layout.layers], sizes, kept)
        else:
            raise InputError(
                f"scope: {self.scope!r} fixes no densities of layers; give 'layerwise', 'erk' or a density per layer"
            )
        quotas = _largest_remainder(exact, sizes, kept)
        if layout.limits is None:
            return quotas
        if isinstance(self.density, Mapping):
            return layout.limits.floor(np.array(quotas)).tolist()
        return layout.limits.share(quotas, kept)


def _power(density: Density, exponent: float) -> Density:
    if isinstance(density, Mapping):
        return {name: value**exponent for name, value in density.items()}
    return density**exponent


def _check(density: float, name: str, allow_zero: bool = False) -> None:
    check_real(name, density, f"a number in {'[0' if allow_zero else '(0'}, 1]")
    if not (0 < density <= 1 or (allow_zero and density == 0)):
        raise InputError(f"{name}: {density!r}; it must lie in {'[0' if allow_zero else '(0'}, 1]")


def _density_of(sparsity: Density) -> Density:
    """1 - sparsity, without the rounding error of the subtraction."""
    if isinstance(sparsity, Mapping):
        for name, value in sparsity.items():
            check_real(f"sparsity of layer {name!r}", value, "a number in [0, 1]")
            if not 0 <= value <= 1:
                raise InputError(f"sparsity of layer {name!r}: {value!r}; it must lie in [0, 1]")
        return {name: round(1 - value, 12) for name, value in sparsity.items()}
    check_real("sparsity", sparsity, "a number in [0, 1)")
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity: {sparsity!r}; it must lie in [0, 1)")
    return round(1 - sparsity, 12)


def _capped(weights: Sequence[float], sizes: Sequence[int], total: int) -> list[float]:
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


def _largest_remainder(exact: Sequence[float], sizes: Sequence[int], total: int) -> list[int]:
    """Whole numbers near ``exact`` with sum ``total``, none above its size (Hamilton's method)."""
    shares = [min(int(value), size) for value, size in zip(exact, sizes, strict=True)]
    order = sorted(range(len(shares)), key=lambda i: (shares[i] - exact[i], i))
    while sum(shares) < total:
        for i in order:
            if sum(shares) < total and shares[i] < sizes[i]:
                shares[i] += 1
    return shares
