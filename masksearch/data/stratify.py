"""Which images go where: one order of the images, every prefix of which has each class in its proportion."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["stratified_order"]


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
