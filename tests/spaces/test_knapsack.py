"""The scope ``knapsack``: the largest sum of saliencies within a budget of MACs or parameters."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from masksearch.spaces import block_space, filter_space, union_space
from masksearch.utils.errors import InputError


@pytest.fixture
def space():
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 9, 3, 2),
        nn.ReLU(),
        nn.Conv2d(9, 5, 3),
        nn.Flatten(),
        nn.LazyLinear(3),
    )
    network(torch.zeros(1, 1, 16, 16))
    return filter_space(network, torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("hold", ["macs", "params"])
@pytest.mark.parametrize("density", [0.2, 0.45, 0.8])
def test_knapsack_nearly_maximises_the_sum_of_saliencies_within_the_budget(space, hold, density):
    saliency = torch.rand(space.n_units, generator=torch.Generator().manual_seed(1)).double()
    mask = space.top_k(saliency, density, scope="knapsack", hold=hold, on_empty="keep_one")
    assert space.share(mask, hold) <= density
    ranked = [saliency[layer.slice].sort(descending=True).values.cumsum(0) for layer in space.layers]
    best = 0.0
    for kept in itertools.product(*(range(1, layer.size + 1) for layer in space.layers)):
        if space.fits(np.array(kept), density, hold):
            best = max(best, sum(float(sums[k - 1]) for sums, k in zip(ranked, kept, strict=True)))
    assert 0.95 * best <= float(saliency[mask.bits].sum()) <= best + 1e-9  # MACs don't add up: nearly the optimum
    assert float(saliency[mask.bits].sum()) >= float(
        saliency[space.top_k(saliency, density, hold=hold, on_empty="keep_one").bits].sum()
    )


def test_knapsack_of_units_equals_the_global_ranking(space):
    saliency = torch.rand(space.n_units)
    assert space.top_k(saliency, 0.5, scope="knapsack") == space.top_k(saliency, 0.5)


def test_budget_below_a_unit_per_layer_raises_input_error(space):
    with pytest.raises(InputError, match="one unit per layer"):
        space.top_k(torch.rand(space.n_units), 1e-3, scope="knapsack", hold="macs")


class Branches(nn.Module):
    """Residual branches with few and with many hidden units of unequal costs."""

    def __init__(self):
        super().__init__()
        widths = (4, 6, 5)
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, 8)) for n in widths)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)


def test_knapsack_of_a_union_ranks_blocks_and_maximises_the_sum_over_remaining_units():
    network, inputs = Branches().eval(), torch.zeros(1, 8)
    space = union_space(block_space(network, inputs), filter_space(network, inputs))
    n = space.blocks.n_units
    saliency = torch.rand(space.n_units, generator=torch.Generator().manual_seed(2)).double()
    saliency[:n] = torch.tensor([3.0, 0.0, 2.0])  # the second branch is the first to go
    mask = space.top_k(saliency, 0.5, scope="knapsack", hold="macs", on_empty="keep_one")
    assert space.share(mask, "macs") <= 0.5
    blocks = mask.bits[:n].tolist()
    assert blocks == space.top_k(saliency, 0.5, hold="macs", on_empty="keep_one").bits[:n].tolist()
    layers = space.layers[n:]
    ranked = [[0.0, *saliency[layer.slice].sort(descending=True).values.cumsum(0).tolist()] for layer in layers]
    allowed = [range(1, layer.size + 1) if keep else (0,) for layer, keep in zip(layers, blocks, strict=True)]
    best = max(
        sum(sums[k] for sums, k in zip(ranked, kept, strict=True))
        for kept in itertools.product(*allowed)
        if space.fits(np.array([*blocks, *kept]), 0.5, "macs")
    )
    assert float(saliency[n:][mask.bits[n:]].sum()) == pytest.approx(best)  # MACs add up over branches: the optimum
