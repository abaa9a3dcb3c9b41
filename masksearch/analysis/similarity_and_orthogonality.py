"""Properties of masks: similarity to other masks, and orthogonality of the masked weights."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from masksearch.core.mask import Mask
from masksearch.spaces import NetworkSpace
from masksearch.utils.registry import Table
from masksearch.utils.seeds import torch_generator


def orthogonality_score(model: nn.Module, space: NetworkSpace, mask: Mask | None = None) -> float:
    """Return how far a network's masked weights W are from orthogonal: mean of (W^T W - I)^2, summed over layers.

    The thesis of 2020 measures the score at initialisation. I is (in, in), and a convolution's ``in`` is its channels
    times its kernel. The score is 0 for orthonormal columns, which need at least as many outputs as inputs.

    Raises
    ------
    InputError
        If mask or model are not of this space.
    """
    with space.applied(model, space.full() if mask is None else mask), torch.no_grad():
        return weights_orthogonality(model.get_parameter(name) for name in space.layer_weights())


def weights_orthogonality(weights: Iterable[Tensor]) -> float:
    """Return how far matrices W are from orthogonal: the mean of (W^T W - I)^2, summed over the matrices."""
    score = 0.0
    for tensor in weights:
        weight = tensor.detach().flatten(1).double()  # (out, in)
        gram = weight.T @ weight
        gram.diagonal().sub_(1)
        score += float(gram.square().mean())
    return score


def cosine(one: Mask, other: Mask) -> float:
    """Return the cosine similarity of two masks, in [0, 1]; about d for two random masks of density d."""
    return one.cosine(other)


def hamming(one: Mask, other: Mask) -> float:
    """Return the share of units in which two masks differ; about 2 d (1 - d) for two random masks of density d."""
    return one.hamming(other) / one.space.n_units


def iou(one: Mask, other: Mask) -> float:
    """Return the intersection over union of two masks' kept units; about d / (2 - d) for random masks of density d."""
    either = one.n_kept + other.n_kept
    common = (either - one.hamming(other)) // 2
    return common / (either - common) if either > common else 0.0


SIMILARITIES: Table[Callable[[Mask, Mask], float]] = Table(
    "similarity", {"cosine": cosine, "hamming": hamming, "iou": iou}
)


def random_like(mask: Mask, seed: int) -> Mask:
    """Return a random mask that keeps as many units of each layer as ``mask`` does."""
    return mask.shuffled(torch_generator(seed, "analysis", "random masks", mask.hash))


def similarity_matrix(masks: Sequence[Mask], measure: str) -> np.ndarray:
    """Return a square matrix of the similarity of every pair of masks, by a measure such as "iou"."""
    compute = SIMILARITIES[measure]
    matrix = np.empty((len(masks), len(masks)))
    for i, one in enumerate(masks):
        for j, other in enumerate(masks[: i + 1]):
            matrix[i, j] = matrix[j, i] = compute(one, other)
    return matrix


def similarity_means(matrix: np.ndarray, owners: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the mean similarity of masks for each pair of methods, as a square matrix; NaN where masks are missing.

    Within a method, pairs have different seeds. Between methods, pairs have the same seed and initial weights.

    Parameters
    ----------
    owners : sequence of (method, seed)
        Method, counted from 0, and seed of each of the n masks.
    """
    methods, seeds = np.array(owners).T
    n = methods.max() + 1
    same = seeds[:, None] == seeds[None, :]
    means = np.full((n, n), np.nan)
    for i in range(n):
        for j in range(n):
            pairs = (methods[:, None] == i) & (methods[None, :] == j) & (same if i != j else ~same)
            if pairs.any():
                means[i, j] = matrix[pairs].mean()
    return means
