"""Similarity of masks: published formulas on small masks, and expected values of random masks."""

import numpy as np
import pytest
import torch

from masksearch.analysis import SIMILARITIES, random_like, similarity_matrix, similarity_means
from masksearch.core.mask import Mask
from masksearch.core.space import MaskSpace

SPACE = MaskSpace([("a", (50, 100), 5000), ("b", (10, 100), 1000)])
TINY = MaskSpace([("only", (2, 3), 6)])


def mask(*bits, space=TINY):
    return Mask(space, torch.tensor(bits, dtype=torch.bool))


ONE, OTHER = mask(1, 1, 1, 0, 0, 0), mask(0, 1, 1, 1, 1, 0)


@pytest.mark.parametrize(("name", "value"), [("cosine", 2 / 12**0.5), ("hamming", 3 / 6), ("iou", 2 / 5)])
def test_similarity_measures_match_values_computed_by_hand(name, value):
    measure = SIMILARITIES[name]
    assert measure(ONE, OTHER) == pytest.approx(value)
    assert measure(OTHER, ONE) == measure(ONE, OTHER)
    assert measure(ONE, ONE) == pytest.approx(0 if name == "hamming" else 1)
    empty = mask(0, 0, 0, 0, 0, 0)
    assert measure(empty, ONE) == (0.5 if name == "hamming" else 0)
    assert measure(empty, empty) == 0


@pytest.mark.parametrize("density", [0.1, 0.4])
def test_similarity_of_random_masks_matches_the_expected_value(density):
    masks = [SPACE.random(density, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    expected = {"cosine": density, "hamming": 2 * density * (1 - density), "iou": density / (2 - density)}
    for name, value in expected.items():
        matrix = similarity_matrix(masks, name)
        assert np.array_equal(matrix, matrix.T)
        assert matrix[~np.eye(8, dtype=bool)] == pytest.approx(np.full(56, value), abs=0.03)
        assert np.diag(matrix) == pytest.approx(0 if name == "hamming" else 1)


def test_random_like_keeps_only_the_densities_of_layers():
    generator = torch.Generator().manual_seed(0)
    given = SPACE.random({"a": 0.1, "b": 0.7}, generator=generator)
    drawn = random_like(given, 3)
    assert drawn.kept_per_layer() == given.kept_per_layer()
    assert drawn == random_like(given, 3)
    assert drawn != random_like(given, 4)
    assert abs(given.cosine(drawn) - random_like(given, 5).cosine(drawn)) < 0.05


def test_similarity_means_pair_seeds_within_and_between_methods():
    owners = [(0, 0), (0, 1), (1, 0), (2, 5)]
    means = similarity_means(similarity_matrix([ONE, OTHER, ONE, OTHER], "iou"), owners)
    assert means.shape == (3, 3)
    assert means[0, 0] == pytest.approx(0.4)
    assert means[0, 1] == means[1, 0] == 1
    assert np.isnan([means[1, 1], means[0, 2], means[1, 2]]).all()
