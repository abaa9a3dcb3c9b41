"""Block spaces: masked equals pruned, units, branches that are left out, costs, searches, criteria, files."""

import copy

import pytest
import torch
import torchvision
from space_cases import randomised
from torch import nn

import masksearch as ms
from masksearch.core.density_allocation import Amount
from masksearch.cost import macs
from masksearch.criteria import select
from masksearch.data import Split
from masksearch.searchers import Annealing, Evolution, RandomSearch
from masksearch.utils.errors import InputError

IMAGE = torch.zeros(1, 3, 32, 32)


class Residual(nn.Module):
    """x + f(x), or an activation of it."""

    def __init__(self, *layers, after=None, shortcut=None):
        super().__init__()
        self.f = nn.Sequential(*layers)
        self.after, self.shortcut = after, shortcut

    def forward(self, x):
        y = self.f(x) + (x if self.shortcut is None else self.shortcut(x))
        return y if self.after is None else self.after(y)


class Parallel(nn.Module):
    """Attention and MLP of one norm, added one after the other."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))

    def forward(self, x):
        y = self.norm(x)
        return x + self.attention(y, y, y)[0] + self.mlp(y)


class InlineProduct(nn.Module):
    """A branch with a product outside of modules, beside one that can be removed."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 12))
        self.linear = nn.Linear(12, 12)

    def forward(self, x):
        x = x + torch.tanh(x @ self.weight)
        return x + self.linear(x)


class PassesBias(nn.Module):
    """A branch whose module also returns one of its inputs, for the next branch (as in T5)."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleList([_WithBias() for _ in range(3)])

    def forward(self, x):
        bias = torch.ones_like(x)
        for layer in self.inner:
            out, bias = layer(x, bias)
            x = x + out
        return x


class _WithBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Bilinear(12, 12, 12)

    def forward(self, x, bias):
        return self.layer(x, bias), bias


def mlp_blocks(n=4, width=12):
    blocks = [Residual(nn.LayerNorm(width), nn.Linear(width, 20), nn.GELU(), nn.Linear(20, width)) for _ in range(n)]
    return nn.Sequential(nn.Linear(8, width), *blocks, nn.Linear(width, 3))


def encoder(norm_first):
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=norm_first, dropout=0.0)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


TOKENS = torch.zeros(1, 5, 12)
# name -> (network, example, number of blocks)
NETWORKS = {
    "resnet18": (torchvision.models.resnet18, IMAGE, 8),
    "resnet50": (torchvision.models.resnet50, IMAGE, 16),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, IMAGE, 10),
    "convnext": (lambda: torchvision.models.convnext_tiny(), IMAGE, 18),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 3, 4, 32, 64), IMAGE, 6),
    "mlp": (mlp_blocks, torch.zeros(1, 8), 4),
    "parallel": (lambda: nn.Sequential(Parallel(), Parallel()), TOKENS, 4),
    "encoder": (lambda: encoder(False), TOKENS, 4),
    "encoder, norm first": (lambda: encoder(True), TOKENS, 4),
    "passes a tensor": (PassesBias, TOKENS, 3),
    "activation after": (
        lambda: nn.Sequential(Residual(nn.Conv2d(3, 3, 3, padding=1), after=nn.ReLU(True)), nn.Conv2d(3, 4, 1)),
        IMAGE,
        1,
    ),
    "projection": (
        lambda: nn.Sequential(
            Residual(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, 1, 1), shortcut=nn.Conv2d(3, 6, 1, 2))
        ),
        IMAGE,
        1,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_network_of_blocks_equals_pruned_network(name):
    build, example, n_blocks = NETWORKS[name]
    model = randomised(build())
    space = ms.block_space(model, example)
    assert space.n_units == n_blocks, str(space)
    assert not space.left_out
    x = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(model.state_dict())
    full, total = macs(model, example), sum(p.numel() for p in model.parameters())
    for density in (0.9, 0.5, 0.2):
        kept = max(1, round(density * n_blocks))
        mask = space.random(kept / n_blocks, generator=torch.Generator().manual_seed(round(10 * density)))
        small = ms.prune(model, space, mask)
        with torch.no_grad(), space.applied(model, mask):
            expected = model(x)
        with torch.no_grad():
            assert (small(x) - expected).abs().max() <= 1e-5 * expected.std()
        assert sum(p.numel() for p in small.parameters()) == space.kept_params(mask)
        removed = space.unit_costs("macs")[~mask.bits].sum()
        assert macs(small, example) == full - removed == space.kept_macs(mask)
        small.train()(x).square().mean().backward()
    assert space.kept_params(space.full()) == total
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert space.fingerprint == ms.block_space(build(), example).fingerprint


def test_blocks_have_names_and_costs():
    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64)
    space = ms.block_space(model, IMAGE)
    layer = "encoder.layers.encoder_layer_0"
    assert [block.name for block in space.blocks][:2] == [f"{layer}.self_attention", f"{layer}.mlp"]
    assert space.blocks[1].params == 32 * 64 * 2 + 64 + 32 + 2 * 32  # with its norm
    assert space.blocks[1].macs == 17 * 32 * 64 * 2
    assert space.blocks[1].zeroed == (f"{layer}.mlp.3.bias", f"{layer}.mlp.3.weight")
    assert layer in str(space)


def test_branch_with_code_outside_of_modules_is_left_out():
    space = ms.block_space(InlineProduct(), TOKENS)
    assert [block.name for block in space.blocks] == ["linear"]
    assert "code outside of modules computes with its weights" in space.left_out[0][1]


def test_branch_with_an_inner_branch_is_left_out():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Residual(Residual(nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 3, 1)))
    space = ms.block_space(model, IMAGE)
    assert [block.name for block in space.blocks] == ["1.f.0.f.0"]
    assert space.left_out == (("1.f", "it contains the branch '1.f.0.f.0'"),)


class Lateral(nn.Module):
    """The lateral connection of a feature pyramid: it adds a branch to a convolution of x."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 1, 1))
        self.lateral = nn.Conv2d(3, 6, 1)

    def forward(self, x):
        small = self.down(x)
        return self.lateral(x) + nn.functional.interpolate(small, scale_factor=2), small


def test_lateral_connection_is_not_a_residual_branch():
    with pytest.raises(InputError, match="it has no x"):
        ms.block_space(Lateral(), IMAGE)


def test_networks_without_residual_branches_raise_input_error():
    with pytest.raises(InputError, match=r"no residual branch that can be removed \(it has no x \+ f\(x\)\)"):
        ms.block_space(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.zeros(1, 8))
    with pytest.raises(InputError, match="doesn't take one example"):
        ms.block_space(mlp_blocks(), torch.zeros(1, 9))


@pytest.mark.parametrize("hold", ["units", "params", "macs"])
def test_rankings_of_blocks_fill_budgets_of_units_params_and_macs(hold):
    space = ms.block_space(torchvision.models.resnet18(), IMAGE)
    saliency = torch.randn(space.n_units, generator=torch.Generator().manual_seed(0))
    mask = space.top_k(saliency, 0.6, hold=hold)
    assert space.share(mask, hold) <= 0.63
    if hold == "units":
        assert saliency[mask.bits].min() > saliency[~mask.bits].max()
    else:  # a block is pruned only if it doesn't fit beside the kept blocks of higher saliency
        costs, allowed = space.unit_costs(hold), space.allowed(Amount(0.6, hold=hold))
        none = space.cost_of(torch.zeros(space.n_units, dtype=torch.bool).numpy(), hold)
        for block in (~mask.bits).nonzero().flatten().tolist():
            beside = costs[mask.bits & (saliency > saliency[block])].sum()
            assert none + beside + costs[block] > allowed
        with pytest.raises(InputError, match="the share of the network without any block"):
            space.top_k(saliency, 0.001, hold=hold)


def split(n=40):
    generator = torch.Generator().manual_seed(1)
    return Split(torch.randn(n, 8, generator=generator), torch.randint(3, (n,), generator=generator))


@pytest.mark.parametrize("name", ["random", "mag", "taylor", "snip", "grasp"])
def test_criteria_rank_blocks(name):
    model = randomised(mlp_blocks())
    space = ms.block_space(model, torch.zeros(1, 8))
    assert select(name, model, space, split(), 0.5).n_kept == 2


@pytest.mark.parametrize("name", ["resnet18", "vit", "encoder, norm first", "mlp", "parallel", "projection"])
def test_block_cosine_compares_input_and_output(name):
    build, example, n_blocks = NETWORKS[name]
    model = randomised(build())
    space = ms.block_space(model, example)
    x = torch.randn(6, *example.shape[1:], generator=torch.Generator().manual_seed(1))
    batches = [(x[:4], None), (x[4:], None)]
    values = ms.criteria.block_cosine(model, space, batches)
    assert values.shape == (n_blocks,)
    assert ((values > 0) & (values < 2)).all()
    mask = ms.Mask(space, torch.arange(n_blocks) != 0)
    alive = ms.criteria.block_cosine(model, space, batches, alive=mask)
    assert alive[0].abs() < 1e-9  # a removed block changes nothing


def test_block_cosine_is_the_mean_over_examples_or_tokens():
    model = randomised(mlp_blocks(3)).double()
    space = ms.block_space(model, torch.zeros(1, 8))
    x = torch.randn(6, 8, dtype=torch.float64)
    expected, y = [], model[0](x).detach()
    for block in model[1:4]:
        z = block(y).detach()
        expected.append(1 - float(torch.stack([a @ b / a.norm() / b.norm() for a, b in zip(y, z, strict=True)]).mean()))
        y = z
    values = ms.criteria.block_cosine(model, space, [(x[:4], None), (x[4:], None)])
    assert values.tolist() == pytest.approx(expected, rel=1e-9)

    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=True, dropout=0.0).eval()
    space = ms.block_space(layer, TOKENS)
    x = torch.randn(2, 5, 12)
    y = x + layer._sa_block(layer.norm1(x), None, None)
    z = y + layer._ff_block(layer.norm2(y))
    expected = [1 - nn.functional.cosine_similarity(a, b, dim=2).mean() for a, b in ((x, y), (y, z))]
    assert torch.allclose(ms.criteria.block_cosine(layer, space, [(x, None)]).float(), torch.stack(expected), atol=1e-5)


def test_block_cosine_of_examples_on_another_path_raises_input_error():
    class TwoPaths(Residual):
        def forward(self, x):
            y = self.f(x) + x
            return y + x if len(x) > 5 else y

    model = nn.Sequential(TwoPaths(nn.Linear(8, 8)), nn.Linear(8, 3)).eval()
    space = ms.block_space(model, torch.zeros(1, 8))
    with pytest.raises(InputError, match="runs 2 additions in '0' for the examples, and 1 for the example"):
        ms.criteria.block_cosine(model, space, [(torch.zeros(8, 8), None)])


def test_taylor_of_blocks_is_the_first_order_change_of_the_loss():
    model = randomised(mlp_blocks()).double()
    space = ms.block_space(model, torch.zeros(1, 8, dtype=torch.float64))
    data = split()
    x, y = data.inputs.double(), data.targets
    change = []
    for block in space.blocks:
        other = copy.deepcopy(model)
        with torch.no_grad():
            for name in block.zeroed:
                other.get_parameter(name).mul_(1 - 1e-6)
        loss = [nn.functional.cross_entropy(net(x), y).item() for net in (model, other)]
        change.append(abs(loss[0] - loss[1]) / 1e-6)
    values = ms.criteria.taylor(model, space, [(x, y)])
    assert torch.allclose(values, torch.tensor(change, dtype=torch.float64), rtol=1e-3)


@pytest.mark.parametrize(
    "searcher", [RandomSearch(), Annealing(), Evolution(population=4)], ids=["random", "annealing", "evolution"]
)
@pytest.mark.parametrize("hold", ["units", "macs"])
def test_searches_of_blocks_keep_the_budget_and_score_the_pruned_network(searcher, hold):
    model = randomised(mlp_blocks(6))
    space = ms.block_space(model, torch.zeros(1, 8))
    scorer = ms.Scorer(model, space, split(), "loss")
    assert "masks zero the last layers of blocks" in repr(scorer)
    history = ms.search(space, searcher, scorer, 0.5, 60, hold=hold)
    assert space.share(history.best_mask, hold) <= 0.5
    small = ms.prune(model, space, history.best_mask)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(small(split().inputs), split().targets)
    assert scorer(history.best_mask).value == pytest.approx(-loss.item(), rel=1e-4)


def test_training_keeps_removed_blocks_at_zero():
    model = randomised(mlp_blocks())
    space = ms.block_space(model, torch.zeros(1, 8))
    mask = space.random(0.5, generator=torch.Generator().manual_seed(0))
    masks = space.parameter_masks(mask)
    ms.train(model, split(), ms.TrainSettings(epochs=2, batch_size=10), masks=masks)
    for name, keep in masks.items():
        assert not model.get_parameter(name)[~keep].any()
    x = torch.randn(3, 8)
    assert torch.allclose(ms.prune(model, space, mask).eval()(x), model.eval()(x), atol=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "vit", "projection", "passes a tensor"])
def test_networks_with_removed_blocks_are_saved_and_loaded(name, tmp_path):
    build, example, n_blocks = NETWORKS[name]
    model = randomised(build())
    space = ms.block_space(model, example)
    mask = ms.Mask(space, torch.arange(n_blocks) % 3 == 1)
    small = ms.prune(model, space, mask)
    ms.save_pruned(tmp_path, small, space, mask)
    loaded = ms.load_pruned(tmp_path, build())
    x = torch.randn(2, *example.shape[1:])
    assert torch.equal(loaded(x), small(x))
    assert ms.Mask.load(tmp_path / "mask.safetensors", space) == mask
    with pytest.raises(InputError, match="which this mask removes"):
        ms.save_pruned(tmp_path, model, space, mask)


def test_masks_and_networks_of_another_block_space_raise_input_error():
    space = ms.block_space(mlp_blocks(4), torch.zeros(1, 8))
    other = ms.block_space(mlp_blocks(5), torch.zeros(1, 8))
    with pytest.raises(InputError, match="doesn't fit this block space"):
        ms.prune(mlp_blocks(4), space, other.full())
    with pytest.raises(InputError, match=r"model: .* has shape"):
        ms.prune(mlp_blocks(4, width=10), space, space.full())
    with pytest.raises(InputError, match="make a filter space"):
        ms.slice_state(space, space.full(), {})


def test_ranking_skips_a_block_that_exceeds_the_budget():
    model = nn.Sequential(*(torchvision.models.resnet.BasicBlock(width, width) for width in (4, 4, 16)))
    model = nn.Sequential(model[0], model[1], nn.Conv2d(4, 16, 1), model[2]).eval()
    space = ms.block_space(model, torch.zeros(1, 4, 8, 8))
    saliency = torch.tensor([1.0, 2.0, 3.0])  # the third block, the best, has sixteen times the MACs of the others
    assert space.top_k(saliency, 0.3, hold="macs").bits.tolist() == [True, True, False]
