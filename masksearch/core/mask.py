"""Pruning masks with one bit per unit, and moves between masks. Bits are computed only when they are read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from masksearch.core.layout import Layout
from masksearch.utils.errors import InputError, check_type
from masksearch.utils.files import load_tensors, save_tensors
from masksearch.utils.integrity import REMEDY, check_object


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """Difference between two masks: indices of the units to prune, and of the pruned units to keep again.

    Equal numbers of both keep the density. ``len(move)`` is the Hamming distance of the two masks.
    """

    dropped: np.ndarray  # int64 (r,), kept before, pruned after
    regrown: np.ndarray  # int64 (r,), pruned before, kept after

    def __len__(self) -> int:
        return len(self.dropped) + len(self.regrown)

    def undone(self) -> "Move":
        """Return the inverse move, which turns the new mask back into the old mask."""
        return Move(self.regrown, self.dropped)

    @staticmethod
    def nowhere() -> "Move":
        """Return the empty move, which changes no unit of a mask."""
        return Move(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


_FORMAT = "masksearch.mask"
_REMEDY = "save the mask again, or remove its folder and run again"


class Mask:
    """Pruning mask of a network: one bit per unit (weight, channel or block), True = kept. Immutable.

    A unit is what one bit switches: a single weight, or a group of channels that must be removed together. A mask made
    by :meth:`moved` stores its base and the move, and computes its bits only when they are read, because a search
    proposes thousands of masks and reads the bits of few.

    Parameters
    ----------
    space : Layout
        Layers and numbers of units; ``weight_space`` and ``filter_space`` make that of a network.
    bits : bool tensor (n_units,)
        On any device; stored on the CPU. The caller must not change it afterwards. Where units are parts of other
        units, parts of pruned units are pruned, too (:meth:`Layout.canonical`).
    """

    __slots__ = ("_base", "_bits", "_hash", "_move", "_pending", "n_kept", "space")

    def __init__(self, space: Layout, bits: Tensor) -> None:
        if bits.shape != (space.n_units,) or bits.dtype != torch.bool:
            raise InputError(
                f"mask bits: {bits.dtype} of shape {tuple(bits.shape)}; a bool tensor ({space.n_units},) is needed"
            )
        self.space = space
        bits = space.canonical(bits.detach().cpu())
        self._bits: Tensor | None = bits
        self._base: Mask | None = None
        self._move: Move | None = None
        self._pending = 0  # units in the moves since the last base with bits
        self._hash: int | None = None
        self.n_kept = int(bits.sum())

    @classmethod
    def of_units(cls, space: Layout, units: np.ndarray) -> "Mask":
        """Return the mask that keeps only the units with the given indices, int64 (n_kept,), and prunes all others."""
        units = np.asarray(units)
        if units.ndim != 1 or (units.size and units.dtype.kind not in "iu"):
            raise InputError(f"units: {units.dtype} of shape {units.shape}; indices (n_kept,) are needed")
        if units.size and (units.min() < 0 or units.max() >= space.n_units):
            raise InputError(
                f"units: {units.dtype} from {units.min()} to {units.max()}; allowed are indices from 0 to "
                f"{space.n_units - 1}"
            )
        bits = torch.zeros(space.n_units, dtype=torch.bool)
        bits.numpy()[units.astype(np.int64)] = True
        return cls(space, bits)

    def moved(self, move: Move) -> "Mask":
        """Return the mask after ``move``, which prunes some units that this mask keeps, and restores some pruned units.

        It takes time O(len(move)). The move is not validated: its ``dropped`` units must be kept by this mask, its
        ``regrown`` units pruned.
        """
        if not len(move):
            return self
        if self.space.nested:
            bits = self.bits.clone()
            bits.numpy()[move.dropped] = False
            bits.numpy()[move.regrown] = True
            return Mask(self.space, bits)
        child = object.__new__(Mask)
        child.space, child._bits, child._base, child._move, child._hash = self.space, None, self, move, None
        child.n_kept = self.n_kept + len(move.regrown) - len(move.dropped)
        child._pending = self._pending + len(move)
        if child._pending > self.space.n_units:  # a longer chain costs more than the bits
            child._compute_bits()
        return child

    @property
    def bits(self) -> Tensor:
        """Return the mask as a read-only bool tensor (n_units,) on the CPU, True = kept."""
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
        """Return a 64-bit hash of the kept units; two different masks have equal hashes with probability 2**-64.

        Zobrist hashing: the exclusive or of one fixed random key per kept unit, updated in time O(len(move)). Histories
        and scorers recognise repeated masks by it. Among 10**6 different masks, two have the same hash with a
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
        """Share of kept units: kept / all units."""
        return self.n_kept / self.space.n_units

    @property
    def sparsity(self) -> float:
        """Share of pruned units: 1 - density."""
        return 1 - self.density

    @property
    def kept_counts(self) -> np.ndarray:
        """Return how many units every layer keeps, in order of the layers: int64 (n_layers,)."""
        bits = self.bits.numpy()
        return np.array([np.count_nonzero(bits[layer.slice]) for layer in self.space.layers], dtype=np.int64)

    def kept_per_layer(self) -> dict[str, int]:
        """Return {layer name: number of kept units}."""
        return {layer.name: kept for layer, kept in zip(self.space.layers, self.kept_counts.tolist(), strict=True)}

    def densities(self) -> dict[str, float]:
        """Return {layer name: kept / all units of the layer}."""
        return self.space.densities(self.kept_counts.tolist())

    def empty_layers(self) -> list[str]:
        """Return the names of layers in which no unit is kept, although the network breaks without one."""
        empty = self.space.empty(self.kept_counts).tolist()
        return [layer.name for layer, is_empty in zip(self.space.layers, empty, strict=True) if is_empty]

    def shuffled(self, generator: torch.Generator) -> "Mask":
        """Return a random mask with the same number of kept units in each layer as this mask."""
        bits = self.bits.clone()
        for layer in self.space.layers:
            bits[layer.slice] = bits[layer.slice][torch.randperm(layer.size, generator=generator)]
        return Mask(self.space, bits)

    def hamming(self, other: "Mask") -> int:
        """Return the Hamming distance of two masks: the number of units that one mask keeps and the other prunes.

        It is 2 r if r units were pruned and r others kept again.
        """
        self._check_same_space(other)
        return int((self.bits ^ other.bits).sum())

    def cosine(self, other: "Mask") -> float:
        """Return the cosine similarity of two masks as 0/1 vectors; 0 if one of them keeps nothing.

        It is (units that both keep) / sqrt(units of one x units of the other).
        """
        self._check_same_space(other)
        common = int((self.bits & other.bits).sum())
        return common / (self.n_kept * other.n_kept) ** 0.5 if common else 0.0

    def move_to(self, other: "Mask") -> Move:
        """Return the move that changes this mask into ``other``; the move's unit indices are in ascending order."""
        self._check_same_space(other)
        mine, theirs = self.bits.numpy(), other.bits.numpy()
        return Move(np.flatnonzero(mine & ~theirs), np.flatnonzero(theirs & ~mine))

    def save(self, path: str | Path) -> None:
        """Write the mask to a safetensors file: packed bits, and layers and fingerprint (hash) of the mask's space."""
        about = {
            "format": _FORMAT,
            "fingerprint": self.space.fingerprint,
            "space": self.space.describe(),
            "layers": _layers(self.space),
            "kept": self.n_kept,
        }
        save_tensors(path, {"bits": torch.from_numpy(np.packbits(self.bits.numpy()))}, about)

    @classmethod
    def load(cls, path: str | Path, space: Layout) -> "Mask":
        """Read a mask from a file that :meth:`Mask.save` has written.

        Parameters
        ----------
        space : Layout
            The space of the mask; its fingerprint must equal that in the file.

        Raises
        ------
        InputError
            If the file is not a mask or is damaged, or is a mask of another architecture; the message names both.
        """
        check_type("path", path, (str, Path), "the path of a file")
        tensors, about = load_tensors(path, _REMEDY)
        if not isinstance(about, dict) or about.get("format") != _FORMAT:
            raise InputError(f"{path} is not a masksearch mask; give a file written by Mask.save")
        check_object(about, path, {"fingerprint": str, "space": str}, _REMEDY)
        if about["fingerprint"] != space.fingerprint or about.get("layers", _layers(space)) != _layers(space):
            raise InputError(f"{path} is a mask of a {about['space']}; it doesn't fit this {space.describe()}")
        if list(tensors) != ["bits"]:
            raise InputError(f"{path} has the tensors {sorted(tensors)}, and a mask has only 'bits'; {_REMEDY}")
        mask = cls(space, torch.from_numpy(unpacked_bits(tensors["bits"].numpy(), space.n_units, path, _REMEDY)))
        if about.get("kept", mask.n_kept) != mask.n_kept:  # files of version 1.0 and before lack it
            raise InputError(f"{path} keeps {mask.n_kept} units, and its recorded number is {about['kept']}; {_REMEDY}")
        return mask

    def _check_same_space(self, other: "Mask") -> None:
        check_type("mask", other, Mask, "a mask")
        if other.space is not self.space and other.space.fingerprint != self.space.fingerprint:
            raise InputError(
                f"masks of two spaces: {self.space.describe()} and {other.space.describe()}; give masks of one space"
            )

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
    """Return whether two masks of one space are equal, compared by :attr:`Mask.hash`; False if one is None."""
    if one is None or other is None:
        return False
    if one is other:
        return True
    if one._base is other or other._base is one:  # one move from each other; the hash would take longer
        return False
    return one.hash == other.hash


def _keys(units: np.ndarray) -> int:
    """Return the exclusive or of the units' keys: splitmix64 finalisers (Steele et al. 2014) of their indices."""
    if not len(units):
        return 0
    with np.errstate(over="ignore"):
        key = (units.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return int(np.bitwise_xor.reduce(key ^ (key >> np.uint64(31))))


def unpacked_bits(packed: object, n: int, path: str | Path, remedy: str = REMEDY) -> np.ndarray:
    """Return ``n`` mask bits, bool (n,), from bytes that ``np.packbits`` made of them.

    Parameters
    ----------
    packed : uint8 array (ceil(n / 8),)
        The bytes from a file.

    Raises
    ------
    InputError
        For another type or length, and for bits behind the last one that are not zero.
    """
    length = -(-n // 8)
    if not isinstance(packed, np.ndarray) or packed.dtype != np.uint8 or packed.shape != (length,):
        has = f"{packed.dtype} {packed.shape}" if isinstance(packed, np.ndarray) else type(packed).__name__
        raise InputError(f"{path} has a mask of {has}; uint8 ({length},) is needed for {n} units; {remedy}")
    bits = np.unpackbits(packed).astype(bool)
    if bits[n:].any():
        raise InputError(f"{path} has a mask with bits set after its last unit ({n} units); {remedy}")
    return bits[:n]


def _layers(space: Layout) -> list[list[object]]:
    """Names, shapes and sizes of the layers, as JSON has them."""
    return [[layer.name, list(layer.shape), layer.size] for layer in space.layers]
