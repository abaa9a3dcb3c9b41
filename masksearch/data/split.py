"""Splits of examples, raw images, and class-stratified orders and batches of examples."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masksearch.utils.errors import InputError

__all__ = ["RawImages", "Split", "balanced_batch", "stratified_order"]


@dataclass(frozen=True, eq=False)
class RawImages:
    """A published data set: pixels and labels, not yet split or normalised."""

    train_images: Tensor  # uint8 (n, c, h, w)
    train_labels: Tensor  # int64 (n,)
    test_images: Tensor  # uint8 (m, c, h, w)
    test_labels: Tensor  # int64 (m,)
    classes: int


def stratified_order(labels: Tensor, generator: np.random.Generator) -> Tensor:
    """A random permutation in which every prefix holds close to its share of every class.

    The images of a class, in random order, are spread evenly over [0, 1): one image at a random position in each of n
    equal intervals. So every prefix has at most one image of a class too many or too few, and splits, search examples
    and smaller training sets are prefixes of such orders.

    scikit-learn's ``train_test_split(stratify=)`` would give other splits than those of the published measurements.

    Parameters
    ----------
    labels : Tensor
        Integers (n,).
    generator : numpy.random.Generator
        Source of the randomness.

    Returns
    -------
    Tensor
        Indices (n,), int64.
    """
    place = np.empty(len(labels))
    for label in labels.unique().tolist():
        members = np.flatnonzero((labels == label).numpy())
        ranks = generator.permutation(len(members))
        place[members] = (ranks + generator.random(len(members))) / len(members)
    return torch.from_numpy(np.argsort(place, kind="stable"))


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """Examples: inputs with one target each.

    Parameters
    ----------
    inputs : Tensor (n, c, h, w)
        Images, for example.
    targets : Tensor (n,)
        Class labels, integers; kept as int64.

    Raises
    ------
    InputError
        If there are no inputs, or not one integer target per input.
    """

    inputs: Tensor
    targets: Tensor

    def __repr__(self) -> str:
        shape, dtype = "x".join(map(str, self.inputs.shape[1:])), str(self.inputs.dtype).removeprefix("torch.")
        return f"Split({len(self)} examples, {shape} {dtype})"

    def __post_init__(self) -> None:
        if self.inputs.ndim != 4 or self.inputs.numel() == 0:
            raise InputError(f"inputs have shape {tuple(self.inputs.shape)}; allowed is (n, c, h, w), none of them 0")
        if self.targets.shape != self.inputs.shape[:1]:
            raise InputError(
                f"targets have shape {tuple(self.targets.shape)}; {len(self.inputs)} inputs need ({len(self.inputs)},)"
            )
        if self.targets.dtype not in _INTEGERS:
            raise InputError(f"targets are {self.targets.dtype}; allowed are integers")
        object.__setattr__(self, "targets", self.targets.long())

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def images(self) -> Tensor:
        """The inputs, under the name that suits images."""
        return self.inputs

    @property
    def labels(self) -> Tensor:
        """The targets, under the name that suits classes."""
        return self.targets

    def __getitem__(self, chosen: slice | Tensor) -> "Split":
        """The examples that a slice (a view) or a tensor of indices (a copy) chooses."""
        return Split(self.inputs[chosen], self.targets[chosen])


def balanced_batch(split: Split, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``per_class`` examples of every class, drawn without replacement: inputs (k, c, h, w) and targets (k,).

    Raises
    ------
    InputError
        If a class has fewer examples than ``per_class``.
    """
    chosen = []
    for label in split.targets.unique():
        members = (split.targets == label).nonzero().flatten()
        if len(members) < per_class:
            raise InputError(f"images per class: {per_class}, but class {int(label)} has only {len(members)}")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    index = torch.cat(chosen)
    index = index[torch.randperm(len(index), generator=generator)]
    return split.inputs[index], split.targets[index]
