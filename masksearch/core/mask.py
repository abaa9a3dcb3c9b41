"""Masks: one bit per unit, stored as a base mask and a move until the bits are read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masksearch.core.layout import Layout
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, save_tensors

__all__ = ["Mask", "Move", "same_mask"]


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """Units that are dropped and units that are regrown.

    Equal numbers of both keep the density; the Hamming distance of the move is the sum of the two numbers.
    """

    dropped: np.ndarray  # int64 (r,), kept before, pruned after
    regrown: np.ndarray  # int64 (r,), pruned before, kept after

    def __len__(self) -> int:
        return len(self.dropped) + len(self.regrown)

    def undone(self) -> "Move":
        """The move back."""
        return Move(self.regrown, self.dropped)

    @staticmethod
    def nowhere() -> "Move":
        """The empty move."""
        return Move(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


_FORMAT = "masksearch.mask"


class Mask:
    """One bit per unit of a space, True = kept. Masks are immutable: a move makes another mask.

    A mask made by :meth:`moved` costs O(radius): it stores its base and the move, and computes its bits only when they
    are read. A search proposes thousands of masks and reads the bits of few.

    Parameters
    ----------
    space : Layout
        The space of the mask.
    bits : bool tensor (n_units,)
        On any device; stored on the CPU. The caller must not change it afterwards.
    """

    __slots__ = ("_base", "_bits", "_hash", "_move", "_pending", "n_kept", "space")

    def __init__(self, space: Layout, bits: Tensor) -> None:
        if bits.shape != (space.n_units,) or bits.dtype != torch.bool:
            raise InputError(
                f"mask bits: {bits.dtype} of shape {tuple(bits.shape)}; a bool tensor ({space.n_units},) is needed"
            )
        self.space = space
        self._bits: Tensor | None = bits.detach().cpu()
        self._base: Mask | None = None
        self._move: Move | None = None
        self._pending = 0  # units in the moves since the last base with bits
        self._hash: int | None = None
        self.n_kept = int(bits.sum())

    @classmethod
    def of_units(cls, space: Layout, units: np.ndarray) -> "Mask":
        """The mask that keeps only the units with these indices."""
        bits = torch.zeros(space.n_units, dtype=torch.bool)
        bits.numpy()[units] = True
        return cls(space, bits)

    def moved(self, move: Move) -> "Mask":
        """The mask after ``move``, in O(radius). The move is not validated; the caller must ensure that it fits."""
        if not len(move):
            return self
        child = object.__new__(Mask)
        child.space, child._bits, child._base, child._move, child._hash = self.space, None, self, move, None
        child.n_kept = self.n_kept + len(move.regrown) - len(move.dropped)
        child._pending = self._pending + len(move)
        if child._pending > self.space.n_units:  # a longer chain costs more than the bits
            child._compute_bits()
        return child

    @property
    def bits(self) -> Tensor:
        """Bool tensor (n_units,) on the CPU, True = kept. Read only."""
        return self._bits if self._bits is not None else self._compute_bits()

    def _compute_bits(self) -> Tensor:
        chain: list[Mask] = []
        mask = self
        while mask._bits is None:
            assert mask._base is not None
            chain.append(mask)
            mask = mask._base
        bits = mask._bits.clone()
        flat = bits.numpy()
        for link in reversed(chain):
            assert link._move is not None
            flat[link._move.dropped] = False
            flat[link._move.regrown] = True
        self._hash = self.hash
        self._bits, self._base, self._move, self._pending = bits, None, None, 0
        return bits

    @property
    def hash(self) -> int:
        """64 bits, equal for equal masks. Two different masks have equal hashes with a probability of 2**-64.

        Zobrist hashing: the exclusive or of one fixed random key per kept unit, so that a move updates it in O(radius).
        Histories and scorers recognise masks of one space by their hashes, to reuse the score of a repeated mask or the
        activations of a base mask. In a search with 10**6 different masks, two masks have the same hash with a
        probability of about 10**12 / 2**65, or 3 in 10**8.
        """
        if self._hash is None:
            chain: list[Mask] = []
            mask = self
            while mask._hash is None and mask._base is not None:
                chain.append(mask)
                mask = mask._base
            if mask._hash is None:
                assert mask._bits is not None
                mask._hash = _keys(np.flatnonzero(mask._bits.numpy()))
            value = mask._hash
            for link in reversed(chain):
                assert link._move is not None
                value ^= _keys(np.concatenate([link._move.dropped, link._move.regrown]))
                link._hash = value
        assert self._hash is not None
        return self._hash

    @property
    def density(self) -> float:
        """Kept units / all units."""
        return self.n_kept / self.space.n_units

    @property
    def sparsity(self) -> float:
        """1 - density."""
        return 1 - self.density

    def kept_per_layer(self) -> dict[str, int]:
        """Kept units of every layer, by name."""
        return {layer.name: int(self.bits[layer.slice].sum()) for layer in self.space.layers}

    def densities(self) -> dict[str, float]:
        """Kept / total of every layer, by name."""
        return self.space.densities(list(self.kept_per_layer().values()))

    def empty_layers(self) -> list[str]:
        """Names of the layers without kept units, which cut the network."""
        return [name for name, kept in self.kept_per_layer().items() if not kept]

    def hamming(self, other: "Mask") -> int:
        """Number of units that differ; 2 r after a swap of radius r."""
        self._check_same_space(other)
        return int((self.bits ^ other.bits).sum())

    def cosine(self, other: "Mask") -> float:
        """Cosine of the angle between the masks as 0/1 vectors: common / sqrt(kept x kept). 0 if either is empty."""
        self._check_same_space(other)
        common = int((self.bits & other.bits).sum())
        return common / (self.n_kept * other.n_kept) ** 0.5 if common else 0.0

    def move_to(self, other: "Mask") -> Move:
        """The move from this mask to ``other``, units in ascending order."""
        self._check_same_space(other)
        mine, theirs = self.bits.numpy(), other.bits.numpy()
        return Move(np.flatnonzero(mine & ~theirs), np.flatnonzero(theirs & ~mine))

    def save(self, path: str | Path) -> None:
        """Write the mask as safetensors: bits packed to bytes, with the space's fingerprint and layers."""
        layers = [[layer.name, list(layer.shape), layer.size] for layer in self.space.layers]
        about = {
            "format": _FORMAT,
            "fingerprint": self.space.fingerprint,
            "space": self.space.describe(),
            "layers": layers,
        }
        save_tensors(path, {"bits": torch.from_numpy(np.packbits(self.bits.numpy()))}, about)

    @classmethod
    def load(cls, path: str | Path, space: Layout) -> "Mask":
        """Read a mask of this space.

        Raises
        ------
        InputError
            If the file is not a mask, or is a mask of another architecture; the message names both.
        """
        tensors, about = load_tensors(path)
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise InputError(f"{path} is not a masksearch mask")
        if about["fingerprint"] != space.fingerprint:
            raise InputError(f"{path} is a mask of a {about['space']}; it doesn't fit this {space.describe()}")
        bits = np.unpackbits(tensors["bits"].numpy(), count=space.n_units).astype(bool)
        return cls(space, torch.from_numpy(bits))

    def _check_same_space(self, other: "Mask") -> None:
        if other.space is not self.space and other.space.fingerprint != self.space.fingerprint:
            raise InputError(f"masks of two spaces: {self.space.describe()} and {other.space.describe()}")

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Mask)
            and other.space.fingerprint == self.space.fingerprint
            and torch.equal(self.bits, other.bits)
        )

    def __hash__(self) -> int:
        return self.hash

    def __repr__(self) -> str:
        return f"Mask({self.n_kept} of {self.space.n_units} {self.space.granularity} units, density {self.density:.4g})"


def same_mask(one: Mask | None, other: Mask | None) -> bool:
    """Whether two masks of one space are equal, by identity or by :attr:`Mask.hash`; False if one is None."""
    if one is None or other is None:
        return False
    if one is other:
        return True
    if one._base is other or other._base is one:  # one move from each other; the hash would take longer
        return False
    return one.hash == other.hash


def _keys(units: np.ndarray) -> int:
    """Exclusive or of the units' keys: the splitmix64 finaliser (Steele et al. 2014) of each index."""
    if not len(units):
        return 0
    with np.errstate(over="ignore"):
        key = (units.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return int(np.bitwise_xor.reduce(key ^ (key >> np.uint64(31))))
