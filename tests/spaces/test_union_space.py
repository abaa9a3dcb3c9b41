"""Unions of blocks and filters: masked equals pruned, canonical masks, costs, searches, criteria, files."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from space_cases import randomised
from torch import nn

import masksearch as ms
from masksearch.cost import macs
from masksearch.criteria import select
from masksearch.data import Split
from masksearch.searchers import SEARCHERS, Annealing
from masksearch.searchers.level_searcher import LevelSearcher
from masksearch.utils.errors import InputError

IMAGE = torch.zeros(1, 3, 32, 32)
TOKENS = torch.zeros(1, 5, 16)


class Residual(nn.Module):
    def __init__(self, width=12, hidden=20):
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        return x + self.f(x)


def mlp(n=4, width=12):
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, width), *[Residual() for _ in range(n)])


def encoder():
    layer = nn.TransformerEncoderLayer(16, 4, 20, batch_first=True, norm_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


# name -> (network, example, filter space's settings)
NETWORKS = {
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), IMAGE, {}),
    "mobilenet": (lambda: torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.5), IMAGE, {}),
    "vit": (lambda: torchvision.models.VisionTransformer(32, 8, 3, 4, 32, 64), IMAGE, {}),
    "vit, norms": (lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 32, 64), IMAGE, {"norms": True}),
    "encoder": (encoder, TOKENS, {}),
    "mlp": (mlp, torch.zeros(1, 8), {}),
    "mlp, multiples": (mlp, torch.zeros(1, 8), {"multiple_of": 8}),
}


def union(model, example, proved=False, **settings):
    spaces = ms.block_space(model, example), ms.filter_space(model, example, **settings)
    return ms.union_space(*spaces, **({"model": model, "example_input": example} if proved else {}))


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_network_of_a_union_equals_pruned_network(name):
    build, example, settings = NETWORKS[name]
    model = randomised(build()).double()
    space = union(model, example, proved=True, **settings)
    assert space.left_out == (*space.blocks.left_out, *space.filters.left_out)
    assert space.blocks.n_units == ms.block_space(model, example).n_units
    x = torch.randn(2, *example.shape[1:], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    for density, scope in ((0.8, "global"), (0.5, "layerwise"), (0.3, "isomorphic")):
        mask = space.random(density, scope, generator=torch.Generator().manual_seed(round(10 * density)))
        small = ms.prune(model, space, mask)
        with torch.no_grad(), space.applied(model, mask):
            expected = model(x)
        with torch.no_grad():
            assert (small(x) - expected).abs().max() <= 1e-9 * expected.std()
        assert sum(p.numel() for p in small.parameters()) == space.kept_params(mask)
        assert macs(small, example.double()) == space.kept_macs(mask)
        small.train()(x).square().mean().backward()
    assert space.kept_params(space.full()) == sum(p.numel() for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert space.fingerprint == union(build().double(), example, **settings).fingerprint


@pytest.mark.parametrize("name", ["resnet18", "vit", "encoder", "mlp"])
def test_units_of_removed_blocks_count_as_removed(name):
    build, example, _ = NETWORKS[name]
    space = union(build(), example)
    inside = [place for place, own in enumerate(space.limits.owners) if own]
    assert inside
    layer, [block] = space.layers[inside[0]], space.limits.owners[inside[0]]
    bits = torch.ones(space.n_units, dtype=torch.bool)
    bits[block] = False
    mask = ms.Mask(space, bits)
    assert mask.n_kept == space.n_units - 1 - layer.size  # the block, and the units within it
    assert not mask.bits[layer.slice].any()
    assert not mask.empty_layers()
    others = bits.clone()
    others[layer.start] = False
    assert ms.Mask(space, others) == mask
    assert ms.Mask(space, others).hash == mask.hash
    move = ms.Move(np.array([block]), np.empty(0, dtype=np.int64))
    assert space.full().moved(move) == mask
    assert mask.density == space.share(mask, "units")
    assert space.unit_costs("units")[block] == 1 + layer.size
    assert space.unit_costs("params")[block] == space.kept_params(space.full()) - space.kept_params(mask)


def test_union_of_an_encoder_has_blocks_heads_and_neurons_as_units():
    space = union(encoder(), TOKENS)
    names = [layer.name for layer in space.layers]
    assert names[:4] == ["layers.0.self_attn", "layers.0", "layers.1.self_attn", "layers.1"] or len(names) == 8
    assert [layer.size for layer in space.layers] == [1, 1, 1, 1, 4, 20, 4, 20]
    assert sorted(len(own) for own in space.limits.owners) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert "4 blocks; 4 layers of filters, 4 of them in blocks" in str(space)


@pytest.mark.parametrize("hold", ["units", "params", "macs"])
@pytest.mark.parametrize("scope", ["global", "layerwise", "isomorphic"])
def test_rankings_in_a_union_fill_the_budget(hold, scope):
    space = union(torchvision.models.resnet18(num_classes=10), IMAGE)
    for density in (0.3, 0.6, 0.9):
        mask = space.random(density, scope, torch.Generator().manual_seed(0), hold=hold)
        assert density - 0.002 <= space.share(mask, hold) <= density + 1e-4
        if hold == "units":
            assert mask.n_kept == space.count(density)
    assert space.random(1.0, scope, hold=hold) == space.full()


def test_blocks_and_filters_of_highest_saliency_are_kept():
    space = union(mlp(), torch.zeros(1, 8))
    blocks = [0, 3, 1, 2]  # from the best to the worst
    saliency = torch.zeros(space.n_units)
    for place, block in enumerate(blocks):
        saliency[block] = 10 - 5 * place
    mask = space.top_k(saliency, 0.6)
    assert mask.n_kept == round(0.6 * space.n_units)
    assert mask.bits[0]
    assert mask.bits[3]
    assert not mask.bits[2]
    first = space.top_k(torch.cat([-torch.ones(4), torch.rand(space.n_units - 4)]), 0.6)
    assert first.bits[:4].sum() < 4


class Checking:
    """Scorer that asserts that every mask is canonical and fits the budget; more kept units of the first layers win."""

    def __init__(self, space, amount):
        self.space, self.amount, self.numbers = space, amount, set()

    def score(self, proposals):
        for proposal in proposals:
            kept = np.array(list(proposal.mask.kept_per_layer().values()))
            assert self.space.limits.allow(kept)
            assert self.space.fits(kept, self.amount)
            if self.amount.hold == "units" and not self.space.limits.stepped:
                assert proposal.mask.n_kept == self.space.count(self.amount)
            bits = proposal.base.bits.clone()
            bits[proposal.dropped], bits[proposal.regrown] = False, True
            assert torch.equal(bits, proposal.mask.bits)
            self.numbers.add(tuple(kept))
        return [ms.Score(float(proposal.mask.bits[:60].sum())) for proposal in proposals]


REFUSING = [name for name, make in SEARCHERS.items() if isinstance(make(), LevelSearcher) and not make().takes_blocks]
# Slow, for filters alone, or without multiple_of:
OTHERS = {"optuna_gp", "annealing_thesis_cnn", "energy_annealing", "evopress", *REFUSING}


@pytest.mark.parametrize("name", REFUSING)
def test_searches_of_numbers_per_layer_refuse_unions(name):
    space = union(mlp(), torch.zeros(1, 8))
    with pytest.raises(InputError, match="units in blocks"):
        ms.search(space, name, Checking(space, ms.Amount(0.6)), ms.Amount(0.6, on_empty="keep_one"), 5)


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name not in OTHERS])
@pytest.mark.parametrize("hold", ["units", "macs"])
@pytest.mark.parametrize("settings", [{}, {"multiple_of": 4}], ids=["", "multiples"])
def test_searchers_propose_canonical_masks_within_the_budget(name, hold, settings):
    space = union(mlp(), torch.zeros(1, 8), **settings)
    amount = ms.Amount(0.6, hold=hold, on_empty="keep_one")
    saliencies = {"given": torch.rand(space.n_units, generator=torch.Generator().manual_seed(0))}
    scorer = Checking(space, amount)
    ms.search(space, name, scorer, amount, 40, saliencies=saliencies)
    assert len(scorer.numbers) > 5
    assert len({numbers[:4] for numbers in scorer.numbers}) > 1  # blocks are removed and restored


@pytest.mark.parametrize("name", ["annealing", "evolution", "annealing_thesis_mlp"])
def test_resumed_search_in_a_union_equals_uninterrupted_search(name, tmp_path):
    space = union(mlp(), torch.zeros(1, 8))
    amount = ms.Amount(0.6, hold="macs")
    whole = ms.search(space, name, Checking(space, amount), amount, 60, folder=tmp_path / "whole")

    def stop(trial, history, searcher):
        if trial.number == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ms.search(space, name, Checking(space, amount), amount, 60, folder=tmp_path / "parts", callbacks=[stop])
    again = ms.search(space, name, Checking(space, amount), amount, 60, folder=tmp_path / "parts")
    assert [trial.mask_hash for trial in again.trials] == [trial.mask_hash for trial in whole.trials]


def split(n=40):
    generator = torch.Generator().manual_seed(1)
    return Split(torch.randn(n, 8, generator=generator), torch.randint(12, (n,), generator=generator))


def test_annealing_in_a_union_beats_its_start_and_scores_the_pruned_network():
    model = randomised(mlp())
    space = union(model, torch.zeros(1, 8))
    scorer = ms.Scorer(model, space, split(), "loss")
    start = select("taylor", model, space, split(), ms.Amount(0.6, hold="macs", scope="layerwise"))
    history = ms.search(space, "annealing", scorer, ms.Amount(0.6, hold="macs"), 80, start=start)
    assert history.best.score.value > scorer(start).value
    assert space.share(history.best_mask, "macs") <= 0.6
    small = ms.prune(model, space, history.best_mask)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(small(split().inputs), split().targets)
    assert scorer(history.best_mask).value == pytest.approx(-loss.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["random", "mag", "taylor", "snip", "grasp"])
def test_criteria_rank_blocks_and_filters(name):
    model = randomised(mlp())
    space = union(model, torch.zeros(1, 8))
    mask = select(name, model, space, split(), 0.6, scope="layerwise")
    assert mask.n_kept == space.count(0.6)
    later = select(name, model, space, split(), 0.4, scope="layerwise", alive=mask)
    assert not (later.bits & ~mask.bits).any()


def test_criterion_for_filters_alone_refuses_unions():
    model = mlp()
    with pytest.raises(InputError, match="criterion 'fpgm': is for filter masks, not union"):
        select("fpgm", model, union(model, torch.zeros(1, 8)), split(), 0.5)


@pytest.mark.parametrize("name", ["resnet18", "vit", "encoder"])
def test_pruned_networks_of_a_union_are_saved_loaded_and_restored(name, tmp_path):
    build, example, settings = NETWORKS[name]
    model = randomised(build())
    space = union(model, example, **settings)
    mask = space.random(0.5, "layerwise", generator=torch.Generator().manual_seed(2))
    assert not mask.bits[: space.blocks.n_units].all()
    small = ms.prune(model, space, mask)
    ms.save_pruned(tmp_path, small, space, mask)
    loaded = ms.load_pruned(tmp_path, build())
    x = torch.randn(2, *example.shape[1:])
    assert torch.equal(loaded(x), small(x))
    assert ms.Mask.load(tmp_path / "mask.safetensors", space) == mask
    whole = build()
    whole.load_state_dict(ms.restore_state(space, mask, small.state_dict()))
    assert (whole.eval()(x) - small(x)).abs().max() <= 1e-4 * small(x).std()


def test_training_under_a_union_mask_keeps_pruned_weights_at_zero():
    model = randomised(mlp())
    space = union(model, torch.zeros(1, 8))
    mask = space.random(0.5, generator=torch.Generator().manual_seed(0))
    ms.train(model, split(), ms.TrainSettings(epochs=2, batch_size=10), masks=space.parameter_masks(mask))
    x = torch.randn(3, 8)
    assert torch.allclose(ms.prune(model, space, mask).eval()(x), model.eval()(x), atol=1e-5)


def test_latency_share_of_a_union_mask_is_positive():
    model = randomised(mlp())
    space = union(model, torch.zeros(1, 8))
    assert ms.LatencyShare(model, space, torch.zeros(1, 8), seconds=0.01)(space.random(0.5)) > 0


def test_wrong_unions_scopes_and_densities_raise_input_error():
    model = mlp()
    blocks, filters = ms.block_space(model, torch.zeros(1, 8)), ms.filter_space(model, torch.zeros(1, 8))
    space = ms.union_space(blocks, filters)
    assert space.fingerprint == ms.union_space(filters, blocks).fingerprint
    with pytest.raises(InputError, match="give one block space and one filter space"):
        ms.union_space(filters, filters)
    with pytest.raises(InputError, match="give one block space and one filter space"):
        ms.union_space()
    with pytest.raises(InputError, match="a union has blocks and filters"):
        ms.union_space(blocks, ms.weight_space(model))
    with pytest.raises(InputError, match="of networks with other parameters"):
        ms.union_space(blocks, ms.filter_space(mlp(5), torch.zeros(1, 8)))
    with pytest.raises(InputError, match="model: given alone"):
        ms.union_space(blocks, filters, model=model)
    with pytest.raises(InputError, match="scope: 'erk' has no density for whole blocks"):
        space.random(0.5, "erk")
    with pytest.raises(InputError, match="density: one per layer"):
        space.random({layer.name: 0.5 for layer in space.layers})
    with pytest.raises(InputError, match="of the macs is less than"):
        space.random(0.005, hold="macs")
    with pytest.raises(InputError, match="densities in a space with units in blocks"):
        ms.search(space, Annealing(densities=True), Checking(space, ms.Amount(0.5)), 0.5, 10)
    with pytest.raises(InputError, match="whole blocks"):
        ms.search(space, "annealing", Checking(space, ms.Amount(0.5)), ms.Amount(0.5, scope="layerwise"), 10)


class ReadsWidth(nn.Module):
    """A branch that can be removed only while another layer keeps all channels, as code reads that layer's width."""

    def __init__(self):
        super().__init__()
        self.before, self.stem = nn.Linear(8, 16), nn.Linear(16, 12)
        self.first = nn.Linear(12, 20)
        self.second = nn.Linear(20, 12)
        self.out = Residual()

    def forward(self, x):
        x = self.stem(torch.relu(self.before(x)))
        y = self.second(torch.relu(self.first(x)))
        if self.before.out_features < 16 and y.shape[-1] == 1:
            raise ValueError("too narrow")
        return self.out(x + y)


def test_block_that_cannot_be_removed_beside_channels_is_left_out():
    model = ReadsWidth()
    example = torch.zeros(1, 8)
    blocks, filters = ms.block_space(model, example), ms.filter_space(model, example)
    assert blocks.n_units == 2
    space = ms.union_space(blocks, filters, model=model, example_input=example)
    names = [block.name for block in space.blocks.blocks]
    assert names == ["out.f"]
    assert any("removed beside channels" in reason for _, reason in space.left_out)
