"""Scope ``isomorphic``: groups of layers of equal topology, exact densities, equal shares of groups, fixed layers."""

from itertools import pairwise

import pytest
import torch
import torchvision
from torch import nn

import masksearch as ms
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError

IMAGE = torch.zeros(1, 3, 32, 32)


def groups_of(space):
    """Return {topology: names of its layers}."""
    groups = {}
    for layer, text in zip(space.layers, space.topologies, strict=True):
        groups.setdefault(text, []).append(layer.name)
    return groups


def test_layers_of_equal_topology_form_a_group():
    space = ms.filter_space(torchvision.models.resnet18(), IMAGE)
    inner = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3, 4) for block in (0, 1)]  # layers of all widths
    trunks = ["conv1"], ["layer2.0.conv2", "layer3.0.conv2"], ["layer4.0.conv2"]  # the last one feeds a linear layer
    assert sorted(groups_of(space).values()) == sorted([inner, *trunks])


def test_heads_and_neurons_form_separate_groups():
    space = ms.filter_space(torchvision.models.VisionTransformer(32, 8, 3, 4, 32, 64), IMAGE)
    assert sorted(len(group) for group in groups_of(space).values()) == [3, 3]
    sizes = {space.layers[i].size for i, text in enumerate(space.topologies) if text == space.topologies[0]}
    assert len(sizes) == 1


def test_attention_and_mlp_blocks_form_separate_groups():
    space = ms.block_space(torchvision.models.VisionTransformer(32, 8, 3, 4, 32, 64), IMAGE)
    assert sorted(len(group) for group in groups_of(space).values()) == [3, 3]


class Grouped(MaskSpace):
    """Four layers of 10, 20, 5 and 65 units; the first two form a group, and the last two."""

    topologies = ("a", "a", "b", "b")

    def __init__(self):
        super().__init__([("one", (10,), 10), ("two", (20,), 20), ("three", (5,), 5), ("four", (65,), 65)])


@pytest.mark.parametrize("density", [0.1, 0.33, 0.5, 0.77, 1.0])
def test_each_group_keeps_the_same_share_and_the_units_of_highest_saliency(density):
    space = Grouped()
    saliency = torch.cat([torch.full((30,), 100.0), torch.zeros(70)]) + torch.rand(100)
    mask = space.top_k(saliency, density, "isomorphic", on_empty="allow")
    assert mask.n_kept == round(100 * density)
    assert abs(int(mask.bits[:30].sum()) - 30 * density) <= 1
    assert abs(int(mask.bits[30:].sum()) - 70 * density) <= 1
    for group in (slice(0, 30), slice(30, 100)):  # each group keeps its best units
        values, bits = saliency[group], mask.bits[group]
        assert bits.all() or values[bits].min() > values[~bits].max()


def test_isomorphic_scope_ranks_units_across_the_layers_of_a_group():
    space = Grouped()
    saliency = torch.zeros(100)
    saliency[10:30] = torch.arange(1.0, 21)  # the second layer is better than the first
    saliency[30:35] = torch.arange(1.0, 6)
    mask = space.top_k(saliency, 0.5, "isomorphic", on_empty="allow")
    assert list(mask.kept_per_layer().values()) == [0, 15, 5, 30]


def test_isomorphic_masks_of_smaller_densities_are_nested():
    space, saliency = Grouped(), torch.rand(100, generator=torch.Generator().manual_seed(0))
    masks = [space.top_k(saliency, n / 100, "isomorphic", on_empty="allow") for n in range(4, 101)]
    for smaller, larger in pairwise(masks):
        assert not (smaller.bits & ~larger.bits).any()


@pytest.mark.parametrize("hold", ["units", "params", "macs"])
def test_isomorphic_scope_keeps_budgets_equal_shares_and_no_empty_layers(hold):
    space = ms.filter_space(torchvision.models.resnet18(), IMAGE)
    amount = ms.Amount(0.4, hold=hold, scope="isomorphic", on_empty="keep_one")
    mask = space.random(amount, generator=torch.Generator().manual_seed(0))
    assert 0.39 <= space.share(mask, hold) <= 0.4 + 1e-3
    assert not mask.empty_layers()
    shares = {}
    for text in set(space.topologies):
        group = [layer for layer, other in zip(space.layers, space.topologies, strict=True) if other == text]
        kept = sum(int(mask.bits[layer.slice].sum()) for layer in group)
        shares[text] = kept / sum(layer.size for layer in group)
    assert max(shares.values()) - min(shares.values()) < 0.02


def test_isomorphic_scope_works_with_criteria_and_multiple_of():
    model = torchvision.models.resnet18()
    space = ms.filter_space(model, IMAGE, multiple_of=8)
    mask = ms.criteria.select("filter_l1", model, space, density=0.5, scope="isomorphic")
    assert 0.49 <= mask.density <= 0.5
    assert all(kept % 8 == 0 for kept in mask.kept_per_layer().values())


def test_searches_and_quotas_refuse_the_isomorphic_scope():
    with pytest.raises(InputError, match="scope: 'isomorphic' is for rankings by a criterion"):
        ms.Problem(Grouped(), ms.Amount(0.5, scope="isomorphic"), 10)
    with pytest.raises(InputError, match="scope: 'isomorphic' fixes no densities of layers"):
        Grouped().quotas(0.5, "isomorphic")


def three_layers():
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


@pytest.mark.parametrize("scope", ["global", "layerwise", "isomorphic"])
@pytest.mark.parametrize("searcher", [None, "annealing", "evolution"])
def test_macs_of_excluded_layers_count_in_the_density(scope, searcher):
    model = three_layers()
    image = torch.zeros(1, 3, 12, 12)
    space = ms.filter_space(model, image, exclude="2")
    assert [layer.name for layer in space.layers] == ["0", "4"]
    full = int(ms.cost.macs(model, image))
    amount = ms.Amount(0.6, hold="macs", scope=scope, on_empty="keep_one")
    mask = space.random(amount, generator=torch.Generator().manual_seed(0))
    if searcher is not None:

        class Score:
            def score(self, proposals):
                for proposal in proposals:
                    assert ms.cost.macs(ms.prune(model, space, proposal.mask), image) <= 0.6 * full
                return [ms.Score(float(proposal.mask.bits[:9].sum())) for proposal in proposals]

        mask = ms.search(space, searcher, Score(), amount.across("global"), 20, start=mask).best_mask
    small = ms.prune(model, space, mask)
    assert small[2].weight.shape[0] == 24  # the layer itself is whole; its inputs may go
    assert 0.55 * full < ms.cost.macs(small, image) <= 0.6 * full
    assert space.kept_macs(mask) == ms.cost.macs(small, image)
