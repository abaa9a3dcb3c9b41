"""``width`` by hand: of chains, of residual trunks, and where a layer is emptied."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from masksearch.data import Split
from masksearch.errors import InputError
from masksearch.models import MODELS
from masksearch.scoring import OBJECTIVES, Scorer
from masksearch.spaces import filter_space, weight_space

WIDTH = OBJECTIVES["width"].of_filters


def chain():
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(4, 3))
    return model.eval(), torch.zeros(1, 2, 5, 5)


def kept(space, numbers):
    densities = {layer.name: number / layer.size for layer, number in zip(space.layers, numbers, strict=True)}
    return space.top_k(torch.arange(space.n_units, dtype=torch.float32), densities, on_empty="allow")


def test_equal_widths_are_best_at_a_number_of_filters_and_an_empty_layer_worst():
    space = filter_space(*chain())
    assert (space.makers, [layer.size for layer in space.layers]) == ((1, 1), [6, 4])
    scores = {(first, 6 - first): WIDTH(space, kept(space, (first, 6 - first))) for first in range(2, 7)}
    assert scores[3, 3] == max(scores.values()) == pytest.approx(-2 / 3)
    assert scores[6, 0] == -math.inf


def test_a_trunk_counts_once_for_each_layer_that_writes_to_it():
    model, image = MODELS["resnet20"].build((3, 32, 32), 10, 0.25).eval(), torch.zeros(1, 3, 32, 32)
    space = filter_space(model, image)
    # Stage by stage: what begins the trunk (the stem, or a shortcut's convolution), and what its three blocks add.
    assert space.makers == (4, 1, 1, 1, 1, 4, 1, 1, 1, 4, 1, 1)
    numbers = (2, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
    terms = [Fraction(n, number) for n, number in zip(space.makers, numbers, strict=True)]
    assert WIDTH(space, kept(space, numbers)) == pytest.approx(-float(sum(terms)))


def test_a_depthwise_convolution_is_as_wide_as_the_layer_before_it():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    space = filter_space(model.eval(), torch.zeros(1, 2, 5, 5))
    assert WIDTH(space, kept(space, (2,))) == pytest.approx(-2 / 2)


def test_weight_masks_have_no_width():
    model, image = chain()
    with pytest.raises(InputError, match="objective: width is of filter masks, and this is a"):
        Scorer(model, weight_space(model), Split(image, torch.zeros(1, dtype=torch.int64)), "width")
