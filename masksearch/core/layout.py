"""Layouts: layers of units, in order, and a fingerprint that differs between architectures."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from masksearch.utils.errors import InputError

__all__ = ["Layer", "Layout"]


@dataclass(frozen=True)
class Layer:
    """One layer of a space: a name and a run of unit indices."""

    name: str
    start: int
    size: int  # units
    shape: tuple[int, ...]  # of the weight (out, in, *kernel); ERK uses it

    @property
    def stop(self) -> int:
        """One past the last unit."""
        return self.start + self.size

    @property
    def slice(self) -> slice:
        """The layer's slice of a tensor (n_units,)."""
        return slice(self.start, self.stop)


class Layout:
    """Units in layers: sizes and names, no networks.

    Parameters
    ----------
    sizes : sequence of (name, shape, units)
        One entry per layer: name, shape of the weight, number of units.
    granularity : str
        What one unit switches: ``"weight"`` or ``"filter"``.
    """

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
        """16 hex digits, equal only for equal layer names, shapes, sizes and granularity."""
        identity = [self.granularity, [[layer.name, list(layer.shape), layer.size] for layer in self.layers]]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

    @cached_property
    def starts(self) -> np.ndarray:
        """First unit of every layer, int64 (n_layers,)."""
        return np.array([layer.start for layer in self.layers], dtype=np.int64)

    def layer_of(self, units: np.ndarray) -> np.ndarray:
        """Index of the layer of each unit, in time O(len(units) log n_layers)."""
        return np.searchsorted(self.starts, units, side="right") - 1

    def densities(self, kept: Sequence[int]) -> dict[str, float]:
        """Kept / total of every layer by name, of the numbers of units that the layers keep."""
        return {layer.name: k / layer.size for layer, k in zip(self.layers, kept, strict=True)}

    def describe(self) -> str:
        """A short text for messages: granularity, sizes of the layers, fingerprint."""
        shown = [f"{layer.name} {'x'.join(map(str, layer.shape))}" for layer in self.layers[:4]]
        more = f", ... {len(self.layers)} layers" if len(self.layers) > 4 else ""
        return f"{self.granularity} space of {self.n_units} units ({', '.join(shown)}{more}; {self.fingerprint})"

    def erk(self, layer: Layer) -> float:
        """Unscaled ERK density: (n_out + n_in + kernel sizes) / (their product) (Evci et al. 2020, section 3)."""
        return sum(layer.shape) / prod(layer.shape)
