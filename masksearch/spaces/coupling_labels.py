"""Channels that must be removed together: labels on tensors' dimensions, ties between labels, fixed labels.

Every position along every dimension of every parameter and buffer gets a label. While the network runs once, the rule
of each operation processes the labels of its inputs: a residual addition ties them pairwise, a concatenation puts
them one after the other, a flattening repeats them, a convolution ties its input's labels to those of its weight's
second dimension. Labels that reach a normalisation over channels, the output, or an operation without a rule are fixed:
their positions can't be removed. Labels that are tied together and nowhere fixed form a unit.

A four-channel example: ``conv1`` (3 -> 4 channels) feeds ``conv2`` (4 -> 4), whose output is added to that of ``conv1``
and read by ``head`` (4 -> 10 features). Labels of ``conv1.weight`` dimension 0 are tied to those of ``conv2.weight``
dimension 1 (its input), and, by the addition, to those of ``conv2.weight`` dimension 0 and ``head.weight`` dimension 1:
four units, each of five slices with the biases. The 3 image channels and the 10 outputs are fixed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from masksearch.spaces.axis_splits import AxisSplit

FIXED = -1  # label of a position that no mask removes, for example a channel of padded zeros
Labels = np.ndarray | None  # of the positions along one dimension: int64 (size,); None: all are fixed


def filled_labels(labels: Labels, size: int) -> np.ndarray:
    """Return the labels of ``size`` channels, int64 (size,): as given, or all -1 (not removable) if they are None."""
    return np.full(size, FIXED) if labels is None else labels


@dataclass(frozen=True, eq=False)
class Leaf:
    """Labels of the positions along a dimension of a parameter; positions with tied labels are removed together."""

    tensor: str
    dim: int
    labels: np.ndarray  # int64 (size of the dimension,)


class UnitPositions:
    """Base class of records of positions, such as channels, and of the mask unit with which each is removed."""

    units: np.ndarray  # int64 (positions,), unit number of every position; FIXED: no unit, the position always stays

    @cached_property
    def numbers(self) -> Tensor:
        """Return each position's unit number as a tensor; -1 (FIXED) stands for a position that is never removed."""
        return torch.from_numpy(self.units)

    def kept(self, bits: Tensor) -> Tensor:
        """Return whether each position is kept by a mask ``bits``, which is a bool tensor with an entry per unit."""
        return torch.cat([bits, bits.new_ones(1)])[self.numbers]  # FIXED reads the last entry

    def n_kept(self, bits: Tensor) -> int:
        """Return how many of these positions, such as a layer's channels, a mask keeps; ``bits`` is bool (n_units,)."""
        return int(self.kept(bits).sum())

    def within(self, part: slice) -> np.ndarray:
        """Return whether each position belongs to a unit in the slice ``part``, such as the units of a layer."""
        return (self.units >= part.start) & (self.units < part.stop)


class Coupling:
    """Record of which channels of a network must be removed together, made while the network runs once.

    Positions (channels, for example) have integer labels. A tie couples two labels; fixed labels are not removable.

    Parameters
    ----------
    model : nn.Module
        The network that will run. Its parameters and buffers are recognised as objects.
    axes : mapping, optional
        {number of a split: axis that gets labels}; splits without an entry have labels on their last axis.
    """

    def __init__(self, model: nn.Module, axes: Mapping[int, int] | None = None) -> None:
        self.leaves: list[Leaf] = []
        self.producers: list[Leaf] = []  # dimensions of weights that make channels, in the order in which layers ran
        self.unmaskable: list[tuple[str, str]] = []  # (layer without a weight that a mask could zero, reason)
        self.notes: dict[str, str] = {}  # parameter -> why it belongs to two places, before reasons of its channels
        self.norms: list[tuple[str, int]] = []  # (module that normalises over kept channels, their dimension, negative)
        self.macs: dict[str, int] = {}  # weight -> multiply-adds that shrink with the weight
        self.other_macs = 0  # multiply-adds that no mask changes
        self.sizes: list[tuple[str, str, int | None, np.ndarray]] = []  # (module, attribute, index, labels counted)
        # (labels of dimensions, MACs in proportion to the positions that stay) of products of two computed tensors
        self.products: list[tuple[list[np.ndarray], int]] = []
        self.splits: list[AxisSplit] = []  # in the order in which they ran
        self.calls: list[Any] = []  # of views with sizes, see view_sizes.ViewCall
        self.views = 0  # runs of dimensions that views have split so far
        self._axes = axes or {}
        self._names: WeakIdKeyDictionary = WeakIdKeyDictionary()
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._names[tensor] = name
        self._weights: WeakIdKeyDictionary = WeakIdKeyDictionary()  # views of parameters -> name
        for name, parameter in model.named_parameters():
            self._weights[parameter] = name
        self._labels: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._stacks: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor -> labels of the parts stacked in it
        self._ties: list[tuple[np.ndarray, np.ndarray]] = []
        self._fixed: list[tuple[np.ndarray, str]] = []
        self._n_labels = 0
        self._free: set[int] = set()
        self._fixed_labels: set[int] = set()
        self._conditional: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor -> [(labels, reason)]

    def labels(self, tensor: Tensor) -> list[Labels]:
        """Return, per dimension, the labels of a tensor's positions; positions with tied labels are removed together.

        A parameter or buffer gets new labels at its first use.
        """
        for fixed, reason in self._conditional.pop(tensor, []):
            self.fix(fixed, reason)
        if tensor not in self._labels and tensor in self._stacks:  # used as a whole: its parts stay equally large
            meeting = zip(*self._stacks[tensor], strict=True)
            self._labels[tensor] = [
                None,
                *(self.tie(labels, "the states of its layers are one tensor") for labels in meeting),
            ]
        if tensor not in self._labels:
            self._labels[tensor] = [None] * tensor.ndim
            if tensor in self._names:
                self._labels[tensor] = [self._new(tensor, dim) for dim in range(tensor.ndim)]
        return list(self._labels[tensor])

    def _new(self, tensor: Tensor, dim: int) -> Labels:
        labels = self.new_labels(tensor.shape[dim])
        if labels is not None:
            self.leaves.append(Leaf(self._names[tensor], dim, labels))
        return labels

    def new_labels(self, size: int) -> Labels:
        """Return ``size`` new labels for the positions of a dimension; None for a dimension with one position."""
        if size == 1:  # a dimension of one position cannot shrink, and broadcasting would lose its label
            return None
        labels = np.arange(self._n_labels, self._n_labels + size)
        self._n_labels += size
        return labels

    def write(self, tensor: Tensor, labels: Sequence[Labels]) -> None:
        """Set the labels of a tensor's positions, an array per dimension; tied labels are removed together."""
        assert len(labels) == tensor.ndim
        self._labels[tensor] = list(labels)

    def write_stack(self, tensor: Tensor, parts: Sequence[Sequence[Labels]]) -> None:
        """Set the labels of the parts that are stacked along dimension 0 of a tensor, such as recurrent states.

        The parts are tied once an operation reads the tensor as a whole.
        """
        self._stacks[tensor] = [list(part) for part in parts]

    def part(self, tensor: Tensor, number: int) -> list[Labels] | None:
        """Return the labels of one part of a tensor that :meth:`write_stack` has labelled; None for other tensors."""
        return list(self._stacks[tensor][number]) if tensor in self._stacks else None

    def free(self, size: int) -> np.ndarray:
        """Return new labels for ``size`` equal copies of one channel; any of the copies can be removed."""
        labels = np.arange(self._n_labels, self._n_labels + size)
        self._n_labels += size
        self._free.update(labels.tolist())
        return labels

    def is_free(self, labels: Labels) -> bool:
        """Return whether these labels belong to equal copies of a position, for which :meth:`free` made them."""
        return labels is not None and len(labels) > 0 and int(labels[0]) in self._free

    def all_fixed(self, labels: Labels) -> bool:
        """Return whether each of these labels is itself marked as not removable, whatever labels it is tied to."""
        return labels is None or self._fixed_labels.issuperset(labels[labels != FIXED].tolist())

    def split(self, owner: str, sizes: Sequence[int], labels: np.ndarray, reason: str) -> list[Labels]:
        """Split channels into axes, such as heads and head_dim; return labels for the axis to prune, None for others.

        The axis that gets labels is the last one, or that of the argument ``axes`` of the class. Along the other axes
        all positions stay, so that positions of the labelled axis are coupled over all others.
        """
        axis = self._axes.get(self.views, -1) % len(sizes)
        rows = np.moveaxis(labels.reshape(sizes), axis, 0).reshape(sizes[axis], -1)
        result: list[Labels] = [None] * len(sizes)
        result[axis] = along = self.tie(list(rows.T), reason)
        assert along is not None
        self.splits.append(AxisSplit(self.views, owner, tuple(sizes), axis, along, labels))
        return result

    def weight_name(self, tensor: Tensor) -> str | None:
        """Return the name of the parameter that ``tensor`` is, or of which it is a view; None for other tensors."""
        return self._weights.get(tensor)

    def mark_view(self, view: Tensor, base: Tensor) -> None:
        """Record that ``view`` is a view of ``base``: if ``base`` is a parameter, zeroing it zeroes both."""
        if base in self._weights:
            self._weights[view] = self._weights[base]

    def tie(self, labels: Sequence[Labels], reason: str) -> Labels:
        """Record that dimensions of equal length must lose the same positions; return the labels that they share.

        Coupling is position by position. A position that is fixed in one dimension becomes fixed in all, for
        ``reason``.
        """
        labels = sorted(labels, key=self.is_free)  # labels of weights first: the result has them
        first = next((dimension for dimension in labels if dimension is not None), None)
        if first is None:
            return None
        result = first
        for other in labels:
            if other is None:
                self.fix(result, reason)
                continue
            both = (result != FIXED) & (other != FIXED)
            self._ties.append((result[both], other[both]))
            self.fix(result[other == FIXED], reason)
            self.fix(other[result == FIXED], reason)
            result = np.where(result != FIXED, result, other)
        return result

    def fix(self, labels: Labels, reason: str, *, first: bool = False) -> None:
        """Mark channels with these labels as not removable for ``reason``; ``first`` puts this before other reasons."""
        if labels is not None:
            real = labels[labels != FIXED]
            if len(real):
                self._fixed_labels.update(real.tolist())
                self._fixed.insert(0 if first else len(self._fixed), (real, reason))

    def fix_if_used(self, result: Tensor, labels: Labels, reason: str) -> None:
        """Mark channels as not removable as soon as an operation or the caller uses the tensor ``result``."""
        if labels is not None:
            self._conditional.setdefault(result, []).append((labels, reason))

    def fix_all(self, tensor: Tensor, reason: str, *, first: bool = False) -> None:
        """Mark all positions of all dimensions of a tensor as not removable, for ``reason``."""
        for labels in self.labels(tensor):
            self.fix(labels, reason, first=first)

    def mark(self) -> tuple[int, int]:
        """Return how many ties and marks are recorded at present, for a later :meth:`go_back`."""
        return len(self._ties), len(self._fixed)

    def go_back(self, mark: tuple[int, int]) -> None:
        """Undo all ties and marks that were recorded after :meth:`mark` returned ``mark``."""
        del self._ties[mark[0] :], self._fixed[mark[1] :]
        self._fixed_labels = {label for labels, _ in self._fixed for label in labels.tolist()}

    def produce(self, weight: str, made: Labels) -> None:
        """Record that the layer whose weight is named ``weight`` makes the channels with the labels ``made``."""
        if made is not None:
            leaves = (leaf for leaf in self.leaves if leaf.tensor == weight and np.isin(leaf.labels, made).any())
            leaf = next(leaves, None)
            if leaf is not None and leaf not in self.producers:  # layers of a packed weight make parts of its channels
                self.producers.append(leaf)

    def classes(self) -> tuple[np.ndarray, dict[int, str]]:
        """Return a group number per label (equal if removed together), and {group that can't be removed: reason}."""
        left, right = (np.concatenate([tie[side] for tie in self._ties] or [np.empty(0, int)]) for side in (0, 1))
        graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(self._n_labels, self._n_labels))
        _, classes = connected_components(graph, directed=False)
        reasons: dict[int, str] = {}
        for labels, reason in self._fixed:
            for label_class in np.unique(classes[labels]).tolist():
                reasons.setdefault(label_class, reason)
        return classes, reasons


def described(module: nn.Module, name: str) -> str:
    """Return a module's class and name for messages: ``LayerNorm 'encoder.ln'``; the class alone for the network."""
    return f"{type(module).__name__} {name!r}" if name else type(module).__name__
