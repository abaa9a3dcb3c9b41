"""Criterion ``fisher`` (Kwon et al. 2022) on a small transformer, against a derivation with mask variables."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import masksearch as ms
from masksearch.criteria.fisher_information import mask_gradients, rearranged

WIDTH, HEADS, HIDDEN, TOKENS, BLOCKS = 8, 4, 12, 5, 2


class Block(nn.Module):
    """Attention and an MLP on a residual stream; mask variables multiply heads and neurons."""

    def __init__(self):
        super().__init__()
        self.heads = HEADS
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.rise, self.fall = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x, heads=None, neurons=None):
        x = x + self.attention(self.norms[0](x), heads)
        hidden = F.gelu(self.rise(self.norms[1](x)))
        return x + self.fall(hidden if neurons is None else hidden * neurons)

    def attention(self, x, heads=None):
        layers = (self.query, self.key, self.value)
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in layers)
        mixed = F.scaled_dot_product_attention(q, k, v)
        mixed = mixed if heads is None else mixed * heads[:, None, None]
        return self.out(mixed.transpose(1, 2).flatten(2))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(BLOCKS)), nn.Linear(WIDTH, 3)

    def forward(self, x, variables=None):
        for number, block in enumerate(self.blocks):
            x = block(x) if variables is None else block(x, *variables[2 * number : 2 * number + 2])
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = Classifier().double().eval()
    with torch.no_grad():  # units of unequal use
        for block in model.blocks:
            block.fall.weight *= torch.rand(HIDDEN) * 3
            block.out.weight *= (torch.rand(HEADS) * 2).repeat_interleave(WIDTH // HEADS)
    inputs, classes = torch.randn(96, TOKENS, WIDTH).double(), torch.randint(3, (96,))
    space = ms.filter_space(model, inputs[:1])
    assert [layer.size for layer in space.layers] == [HEADS, HIDDEN] * BLOCKS
    return model, space, inputs, classes


@pytest.fixture(scope="module")
def gradients(case):
    """Of every example, from mask variables in the forward pass: (examples, units)."""
    model, _, inputs, classes = case
    rows = []
    for x, y in zip(inputs.split(1), classes.split(1), strict=True):
        variables = [torch.ones(n, dtype=torch.float64, requires_grad=True) for n in (HEADS, HIDDEN) * BLOCKS]
        rows.append(torch.cat(torch.autograd.grad(F.cross_entropy(model(x, variables), y), variables)))
    return torch.stack(rows)


def test_fisher_gradients_equal_gradients_of_mask_variables(case, gradients):
    model, space, inputs, classes = case
    found = mask_gradients(model, space, [(inputs[:64], classes[:64]), (inputs[64:], classes[64:])])
    assert torch.allclose(found, gradients, rtol=1e-9, atol=1e-12)
    assert torch.allclose(ms.criteria.fisher(model, space, [(inputs, classes)]), gradients.square().sum(0))


def searched(space, diagonal, allowed):
    """Algorithm 1 of the paper: for every number of heads, the neurons that fit; heads and neurons by their ranks."""
    kinds = [torch.cat([torch.arange(layer.start, layer.stop) for layer in space.layers[k::2]]) for k in (0, 1)]
    heads, neurons = (units[diagonal[units].argsort(descending=True)] for units in kinds)
    costs = space.unit_costs("macs")
    best, found = -1.0, None
    for n in range(len(heads) + 1):
        left = allowed - float(costs[heads[:n]].sum())
        m = min(int(left // float(costs[neurons[0]])), len(neurons))
        if m >= 0 and (total := float(diagonal[heads[:n]].sum() + diagonal[neurons[:m]].sum())) > best:
            best, found = total, torch.cat([heads[:n], neurons[:m]])
    return ms.Mask.of_units(space, found.numpy())


def loss_of(gradients, removed):
    """(1 - m)^T I (1 - m) of a layer's block."""
    fisher = gradients.T @ gradients
    out = torch.zeros(len(fisher), dtype=torch.float64)
    out[list(removed)] = 1
    return float(out @ fisher @ out)


def exchanged(gradients, removed):
    """Return the removed units after a greedy pass within a layer, by the Fisher matrix."""
    removed = set(removed)
    for unit in sorted(set(range(gradients.shape[1])) - removed, key=lambda i: float(gradients[:, i].square().sum())):
        more = removed | {unit}
        removed = min((more - {back} for back in more), key=lambda one: loss_of(gradients, one))
    return removed


@pytest.mark.parametrize("density", [0.45, 0.6, 0.8])
def test_fisher_masks_equal_masks_of_the_papers_algorithm(case, gradients, density):
    model, space, inputs, classes = case
    fixed = space.kept_macs(space.full()) - float(space.unit_costs("macs").sum())
    first = searched(space, gradients.square().sum(0), density * space.kept_macs(space.full()) - fixed)
    options = {"hold": "macs", "scope": "knapsack", "on_empty": "allow"}
    values = ms.criteria.fisher(model, space, [(inputs, classes)])
    assert space.top_k(values, density, **options) == first
    expected = first.bits.clone()
    for layer in space.layers:
        own = gradients[:, layer.slice]
        gone = set((~first.bits[layer.slice]).nonzero().flatten().tolist())
        if gone and len(gone) < layer.size:
            after = exchanged(own, gone)
            assert len(after) == len(gone)
            assert loss_of(own, after) <= loss_of(own, gone)
            expected[layer.slice] = torch.tensor([place not in after for place in range(layer.size)])
    mask = ms.criteria.select("fisher", model, space, [(inputs, classes)], density, **options)
    assert torch.equal(mask.bits, expected)
    if density < 0.8:  # the rearrangement changes something
        assert not torch.equal(mask.bits, first.bits)
    assert mask.kept_per_layer() == first.kept_per_layer()


def test_fisher_keeps_pruned_units_pruned(case):
    model, space, inputs, classes = case
    alive = space.random(0.7, scope="layerwise", generator=torch.Generator().manual_seed(0))
    batches = [(inputs, classes)]
    mask = ms.criteria.select("fisher", model, space, batches, 0.4, scope="layerwise", alive=alive)
    assert not (mask.bits & ~alive.bits).any()
    assert mask.n_kept == space.top_k(torch.rand(space.n_units), 0.4, scope="layerwise").n_kept
    assert rearranged(model, space, batches, space.full()) == space.full()


def test_repair_has_lower_error_than_the_best_scales_of_units(case):
    """Section 4.3 scales kept units to fit the dense sums; least squares over all weights includes these scales."""
    model, space, inputs, classes = case
    mask = ms.criteria.select("fisher", model, space, [(inputs, classes)], 0.5, hold="macs", scope="knapsack")
    repaired = ms.reconstruct(model, space, mask, inputs, sequential=True)
    kept = dict(zip([layer.name for layer in space.layers], space.layers, strict=True))["blocks.0.rise"]
    keep = mask.bits[kept.slice]
    block, own = model.blocks[0], repaired.blocks[0]
    with torch.no_grad():
        target = block(inputs)
        stream = inputs + own.attention(own.norms[0](inputs))
        hidden = F.gelu(block.rise(block.norms[1](stream)))[..., keep]
        parts = torch.stack([hidden[..., i, None] * block.fall.weight[:, keep][:, i] for i in range(int(keep.sum()))])
        aim = (target - stream - block.fall.bias).flatten()
        scales = torch.linalg.lstsq(parts.flatten(1).T, aim[:, None]).solution
        best_scales = (parts.flatten(1).T @ scales - aim[:, None]).square().sum()
        error = (own(inputs) - target).square().sum()
        masked = (parts.sum(0).flatten() - aim).square().sum()
    assert error < best_scales < masked


def test_compress_with_fisher_uses_scope_knapsack(case):
    model, _, inputs, classes = case
    model, inputs = nn.Sequential(model).float(), inputs.float()
    data = ms.Data.from_tensors("random", (inputs, classes), (inputs, classes))
    for share in ({"macs": 0.6}, {"latency": 0.99}, {"sparsity": 0.5}):
        granularity = "filter" if "sparsity" in share else None
        result = ms.compress(model, data, method="fisher", granularity=granularity, train=False, **share)
        assert result.method == "fisher"
        assert result.amount.scope == "knapsack"
    with pytest.raises(ms.InputError, match="ranks filter units"):
        ms.compress(model, data, method="fisher", sparsity=0.5)


def test_rearrangement_is_among_the_best_fifth_of_all_sets_of_a_small_layer(case, gradients):
    """Against all sets of removed neurons of a layer."""
    _, space, _, _ = case
    own = gradients[:, space.layers[1].slice]
    ranked = own.square().sum(0).argsort().tolist()
    losses = sorted(loss_of(own, gone) for gone in itertools.combinations(range(HIDDEN), 6))
    found = loss_of(own, exchanged(own, ranked[:6]))
    assert found <= losses[len(losses) // 5]
