"""Splits: examples and their labels, raw and stratified."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masksearch.utils.errors import InputError

__all__ = ["RawImages", "Split", "stratified_order"]


@dataclass(frozen=True, eq=False)
class RawImages:
    """A data set as it is published: pixels, not yet split or normalised."""

    train_images: Tensor  # uint8 (n, c, h, w)
    train_labels: Tensor  # int64 (n,)
    test_images: Tensor  # uint8 (m, c, h, w)
    test_labels: Tensor  # int64 (m,)
    classes: int


def stratified_order(labels: Tensor, generator: np.random.Generator) -> Tensor:
    """A random permutation in which every prefix holds close to its share of every class.

    A class of n images, in random order, is spread evenly over [0, 1): one image at a random place in each of n equal
    stretches. So a prefix never has more than one image of a class too many or too few for the point where it ends,
    and taking prefixes is all that making splits, search images and smaller training sets needs.

    scikit-learn's ``train_test_split(stratify=)`` makes other splits from the same seed, and all measurements in
    benchmarks/results are of these splits.

    Parameters
    ----------
    labels : Tensor
        Integers (n,).
    generator : numpy.random.Generator
        Where the randomness comes from.

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
