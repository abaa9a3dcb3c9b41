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


@dataclass(frozen=True)
class Layer:
    """One layer of a mask: its name, the shape of its weight, and the range of its units (mask bits)."""

    name: str
    start: int
    size: int  # units
    shape: tuple[int, ...]  # of the layer's weight (out, in, *kernel)

    @property
    def stop(self) -> int:
        """Return the stop of the layer's range of units (mask bits): the index of its last unit, plus 1."""
        return self.start + self.size

    @property
    def slice(self) -> slice:
        """Return the slice that selects the layer's units from a tensor with one value per unit, (n_units,)."""
        return slice(self.start, self.stop)


class Layout:
    """Layers that a mask covers: their names, weight shapes and numbers of units (mask bits). Holds no network.

    A unit is what one bit of a mask switches. Units are numbered layer by layer.

    Parameters
    ----------
    sizes : sequence of (name, shape, units)
        One entry per layer: name, shape of the weight, number of units.
    granularity : str
        What one unit switches: ``"weight"`` or ``"filter"``.
    """

    limits: Limits | None = None
    """Limits on how many units a mask keeps in each layer; None: no limits."""
    swap_group: int = 0
    """Size of blocks of consecutive units; a search swaps a kept and a pruned unit only within a block. 0: anywhere."""

    nested: bool = False
    """Whether some units are parts of others, such as filters of a block: pruning the block also prunes its filters."""

    @property
    def needed(self) -> np.ndarray:
        """Return, for each layer, whether the network breaks if the layer keeps no unit: bool (n_layers,).

        By default, all layers are needed.
        """
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
        """Return a hash, 16 hex digits, of the kind of unit and the layers; masks fit all spaces with an equal hash."""
        identity = [self.granularity, [[layer.name, list(layer.shape), layer.size] for layer in self.layers]]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

    @cached_property
    def topologies(self) -> tuple[str, ...]:
        """Return a text per layer for its kind of weight, such as "4d weight, kernel (3, 3)".

        With scope="isomorphic", units of layers with equal texts are ranked together.
        """
        return tuple(f"{len(layer.shape)}d weight, kernel {layer.shape[2:]}" for layer in self.layers)

    def canonical(self, bits: Tensor) -> Tensor:
        """Return mask bits, bool (n_units,), in a standard form: equal for masks that give the same pruned network."""
        return bits

    def empty(self, kept: np.ndarray) -> np.ndarray:
        """Return which layers have no kept unit, although the network breaks without one: bool (n_layers,).

        ``kept`` holds the kept units of every layer, int64 (n_layers,).
        """
        return (kept == 0) & self.needed

    @cached_property
    def starts(self) -> np.ndarray:
        """Return the index of the first unit (mask bit) of every layer, int64 (n_layers,)."""
        return np.array([layer.start for layer in self.layers], dtype=np.int64)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Return the number of units (mask bits) of every layer, int64 (n_layers,)."""
        return np.array([layer.size for layer in self.layers], dtype=np.int64)

    def layer_of(self, units: np.ndarray) -> np.ndarray:
        """Return the index of the layer that each given unit (mask bit) belongs to: int64, one per unit index."""
        return np.searchsorted(self.starts, units, side="right") - 1

    def densities(self, kept: Sequence[int]) -> dict[str, float]:
        """Return {layer name: kept / all units}; ``kept`` has each layer's number of kept units, in order."""
        return {layer.name: k / layer.size for layer, k in zip(self.layers, kept, strict=True)}

    def describe(self) -> str:
        """Return a one-line description for error messages: kind of unit, layers' sizes, and fingerprint (hash)."""
        shown = [f"{layer.name} {'x'.join(map(str, layer.shape))}" for layer in self.layers[:4]]
        more = f", ... {len(self.layers)} layers" if len(self.layers) > 4 else ""
        return f"{self.granularity} space of {self.n_units} units ({', '.join(shown)}{more}; {self.fingerprint})"

    def erk(self, layer: Layer) -> float:
        """Return a layer's Erdős-Rényi-kernel (ERK) density before scaling: sum / product of its weight's dimensions.

        Evci et al. 2020, section 3.
        """
        return sum(layer.shape) / prod(layer.shape)
