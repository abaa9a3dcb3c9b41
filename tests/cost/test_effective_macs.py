"""Effective MACs: products of each weight by the share of its entries that a mask keeps, against counts by hand."""

import pytest
import torch
from torch import nn

import masksearch as ms
from masksearch import cost


def test_effective_macs_are_macs_times_density():
    model = ms.build_model("lenet5", (1, 28, 28))
    space = ms.weight_space(model)
    counted = cost.macs(model, torch.zeros(1, 1, 28, 28))
    mask = space.random(density=0.2, scope="erk", generator=torch.Generator().manual_seed(0))
    effective = cost.effective_macs(counted, mask.densities())
    for layer in space.layers:
        positions = counted.per_layer[layer.name] // layer.size  # one multiply-add of every kept weight at each
        assert effective.per_layer[layer.name] == positions * mask.kept_per_layer()[layer.name]
    assert effective == sum(effective.per_layer.values()) < counted
    assert cost.effective_macs(counted, {}) == counted
    with pytest.raises(ms.InputError, match="did you mean 'conv1'"):
        cost.effective_macs(counted, {"conv11": 0.5})
    with pytest.raises(ms.InputError, match=r"1.5 for layer 'conv1'"):
        cost.effective_macs(counted, {"conv1": 1.5})


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # a CPU may run a float32 LSTM as one fused operator
def test_each_weight_of_a_recurrent_layer_has_effective_macs_of_its_own(kind, gates, dtype):
    steps, inputs, hidden = 5, 16, 8
    layer = kind(inputs, hidden, batch_first=True).to(dtype)
    counted = cost.macs(layer, torch.randn(2, steps, inputs, dtype=dtype))
    assert counted.per_weight == {
        "weight_ih_l0": steps * gates * hidden * inputs,
        "weight_hh_l0": steps * gates * hidden * hidden,
    }
    densities = {"weight_ih_l0": 0.25, "weight_hh_l0": 0.5}
    assert cost.effective_macs(counted, densities) == steps * gates * hidden * (inputs // 4 + hidden // 2)


def test_pruned_attention_projections_lower_effective_macs_and_products_of_activations_stay():
    tokens, width = 6, 8
    layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True)
    counted = cost.macs(layer, torch.randn(2, tokens, width))
    products = 2 * tokens * tokens * width  # queries with keys, and weights of attention with values
    projections, neurons = tokens * 4 * width * width, tokens * 2 * width * 32
    assert counted == products + projections + neurons
    assert counted.without_weights("self_attn") == products
    mask = ms.weight_space(layer).full().densities()
    assert mask.keys() <= counted.per_weight.keys() | {name.removesuffix(".weight") for name in counted.per_weight}
    assert cost.effective_macs(counted, dict.fromkeys(mask, 0.5)) == products + (projections + neurons) // 2


def test_a_weight_that_two_layers_share_is_pruned_in_both():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 6), nn.Linear(6, 20, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.embed(tokens))

    counted = cost.macs(Tied(), torch.zeros(1, 4, dtype=torch.long))
    assert (counted.per_layer, counted.per_weight) == ({"embed": 0, "head": 480}, {"embed.weight": 480})
    assert cost.effective_macs(counted, {"embed": 0.5}).per_layer == {"embed": 0, "head": 240}


def test_a_layer_that_multiplies_with_a_tensor_made_from_its_weight_has_the_macs_of_its_weight():
    class Masked(nn.Linear):
        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight * 1.0)

    counted = cost.macs(nn.Sequential(Masked(6, 4)), torch.randn(1, 6))
    assert counted.per_weight == {"0.weight": 24}
    assert cost.effective_macs(counted, {"0": 0.5}) == 12


def test_learned_queries_and_a_weight_in_one_product_count_for_the_layer_of_the_weight():
    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries, self.project = nn.Parameter(torch.randn(5, 6)), nn.Linear(6, 4)

        def forward(self, x):
            return self.project(self.queries) + x

    counted = cost.macs(Queries(), torch.randn(1, 5, 4))
    assert counted.per_layer == {"": 0, "project": 5 * 6 * 4}
    assert cost.effective_macs(counted, {"project": 0.5}) == 60
