"""Objective ``width``: output channels, counted by hand, of chains, trunks, groups, splits and emptied layers."""

import math

import pytest
import torch
from torch import nn

from masksearch.data import Split
from masksearch.models import MODELS
from masksearch.scoring import OBJECTIVES, Scorer
from masksearch.spaces import filter_space, weight_space
from masksearch.utils.errors import InputError

WIDTH = OBJECTIVES["width"].of_filters


def chain(*second, after=4):
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), *(second or [nn.Conv2d(6, 4, 3)]), nn.Flatten())
    return model.append(nn.Linear(after, 3)).eval(), torch.zeros(1, 2, 5, 5)


class Splits(nn.Module):
    """The halves of a layer's channels go to two different layers."""

    def __init__(self):
        super().__init__()
        self.both, self.one, self.last = nn.Conv2d(2, 8, 1), nn.Conv2d(4, 6, 1), nn.Linear(10, 3)

    def forward(self, images):
        left, right = self.both(images).relu().chunk(2, 1)
        return self.last(torch.cat([self.one(left).relu(), right], 1).mean((2, 3)))


def kept(space, numbers):
    densities = {layer.name: number / layer.size for layer, number in zip(space.layers, numbers, strict=True)}
    return space.top_k(torch.arange(space.n_units, dtype=torch.float32), densities, on_empty="allow")


def test_width_is_highest_for_equal_widths_and_minus_infinity_for_an_empty_layer():
    space = filter_space(*chain())
    scores = {(first, 6 - first): WIDTH(space, kept(space, (first, 6 - first))) for first in range(2, 7)}
    assert scores[3, 3] == max(scores.values()) == pytest.approx(-2 / 3)
    assert scores[6, 0] == -math.inf


def test_width_counts_a_trunk_for_every_convolution_with_outputs_in_it():
    model = MODELS["resnet20"].build((3, 32, 32), 10, 0.25).eval()
    space = filter_space(model, torch.zeros(1, 3, 32, 32))
    # The stem or a shortcut's convolution, and three blocks; layers are a trunk, then what is within its blocks.
    writers = (4, 1, 1, 1, 1, 4, 1, 1, 1, 4, 1, 1)
    numbers = (2, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
    wanted = -sum(n / number for n, number in zip(writers, numbers, strict=True))
    assert WIDTH(space, kept(space, numbers)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("network", "numbers", "widths"),
    [
        (chain(nn.Conv2d(6, 6, 3, groups=6), after=6), (2,), (2, 2)),  # depthwise: as wide as the layer before it
        (chain(nn.Conv2d(6, 9, 3, groups=3), after=9), (1, 2), (3, 6)),  # a unit is a channel of every group
        ((Splits().eval(), torch.zeros(1, 2, 5, 5)), (3, 2), (6, 2)),  # a unit is a channel of both halves
    ],
    ids=["depthwise", "groups", "split"],
)
def test_width_counts_output_channels_of_depthwise_grouped_and_split_units(network, numbers, widths):
    space = filter_space(*network)
    mask = kept(space, numbers)
    assert sorted(space.widths(mask)) == sorted(widths)
    assert WIDTH(space, mask) == pytest.approx(-sum(1 / width for width in widths))


def test_width_of_weight_masks_raises_input_error():
    model, image = chain()
    with pytest.raises(InputError, match="objective: width scores filter masks only, and this is a"):
        Scorer(model, weight_space(model), Split(image, torch.zeros(1, dtype=torch.int64)), "width")
