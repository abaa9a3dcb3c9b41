"""Layouts of masks: which bits of a mask belong to which layer, and a fingerprint that identifies the architecture."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from torch import Tensor

from masksearch.core.limits import Limits
from masksearch.utils.errors import InputError

__all__ = ["Layer", "Layout"]


@dataclass(frozen=True)
class Layer:
    """One layer of a mask: its name and shape, and its units, with indices ``start`` to ``stop - 1``."""

    name: str
    start: int
    size: int  # units
    shape: tuple[int, ...]  # of the layer's weight (out, in, *kernel)

    @property
    def stop(self) -> int:
        """Index after that of the layer's last unit."""
        return self.start + self.size

    @property
    def slice(self) -> slice:
        """Slice that selects the layer's units from a tensor (n_units,)."""
        return slice(self.start, self.stop)


class Layout:
    """Layers that a mask covers: their names, weight shapes and numbers of units. Holds no network.

    A unit is what one bit of a mask switches. Units are numbered layer by layer.

    Parameters
    ----------
    sizes : sequence of (name, shape, units)
        One entry per layer: name, shape of the weight, number of units.
    granularity : str
        What one unit switches: ``"weight"`` or ``"filter"``.
    """

    limits: Limits | None = None
    """Limits on the number of units that every layer of a mask keeps; None: there are none."""
    swap_group: int = 0
    """Number of consecutive units among which moves of searches must swap; 0: a move may swap any two units."""

    nested: bool = False
    """Whether some units are parts of others, so that :meth:`canonical` changes bits."""

    @property
    def needed(self) -> np.ndarray:
        """Whether a mask that keeps nothing of a layer cuts the network: bool (n_layers,). By default, all do."""
        return np.ones(len(self.layers), dtype=bool)

    def __init__(self, sizes: Sequence[tuple[str, tuple[int, ...], int]], granularity: str = "weight") -> None:
        if not sizes:
            raise InputError(f"a {granularity} space needs at least one layer with units, and there is none")
        layers, start = [], 0
        for name, shape, units in sizes:
            if units < 1:
                raise InputError(f"layer {name!r} has {units} units; a layer of a space has at least one")
            layers.append(Layer(name, start, units, tuple(shape)))
            start += units
        self.layers: tuple[Layer, ...] = tuple(layers)
        self.granularity = granularity
        self.n_units = start
        if len({layer.name for layer in layers}) < len(layers):
            raise InputError("two layers of a space have the same name")

    @cached_property
    def fingerprint(self) -> str:
        """Hash (16 hex digits) of granularity and layers; a mask fits every space of the same fingerprint."""
        identity = [self.granularity, [[layer.name, list(layer.shape), layer.size] for layer in self.layers]]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

    @cached_property
    def topologies(self) -> tuple[str, ...]:
        """One text per layer; layers with equal texts look alike, and scope ``"isomorphic"`` ranks them together."""
        return tuple(f"{len(layer.shape)}d weight, kernel {layer.shape[2:]}" for layer in self.layers)

    def canonical(self, bits: Tensor) -> Tensor:
        """Return mask bits, bool (n_units,), in the one form that all masks of the same pruned network have."""
        return bits

    def empty(self, kept: np.ndarray) -> np.ndarray:
        """Return which layers cut the network because they keep nothing: bool (n_layers,).

        ``kept`` holds the kept units of every layer, int64 (n_layers,).
        """
        return (kept == 0) & self.needed

    @cached_property
    def starts(self) -> np.ndarray:
        """Index of the first unit of every layer, int64 (n_layers,)."""
        return np.array([layer.start for layer in self.layers], dtype=np.int64)

    def layer_of(self, units: np.ndarray) -> np.ndarray:
        """Return the layer index of each unit index: int64, in time O(len(units) log n_layers)."""
        return np.searchsorted(self.starts, units, side="right") - 1

    def densities(self, kept: Sequence[int]) -> dict[str, float]:
        """Convert the numbers of kept units, in order of the layers, to {layer name: kept / all units}."""
        return {layer.name: k / layer.size for layer, k in zip(self.layers, kept, strict=True)}

    def describe(self) -> str:
        """Return a short text for messages: granularity, sizes of the layers, fingerprint."""
        shown = [f"{layer.name} {'x'.join(map(str, layer.shape))}" for layer in self.layers[:4]]
        more = f", ... {len(self.layers)} layers" if len(self.layers) > 4 else ""
        return f"{self.granularity} space of {self.n_units} units ({', '.join(shown)}{more}; {self.fingerprint})"

    def erk(self, layer: Layer) -> float:
        """Return a layer's Erdős-Rényi-kernel (ERK) density before scaling: sum / product of the weight's dimensions.

        Evci et al. 2020, section 3.
        """
        return sum(layer.shape) / prod(layer.shape)
