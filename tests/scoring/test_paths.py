"""Faster paths to the logits lead where the reference leads, whatever walk they are taken on."""

import json
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from masksearch import loop
from masksearch.data import Split
from masksearch.history_file import HistoryFile
from masksearch.loop import search
from masksearch.mask import Mask
from masksearch.move import Move
from masksearch.scoring import Scorer, scorer
from masksearch.scoring.compact import CompactPath
from masksearch.scoring.incremental import IncrementalPath, linear_chain
from masksearch.scoring.paths import ReferencePath
from masksearch.searchers import Annealing
from masksearch.spaces import filter_space, weight_space
from masksearch.trial import Proposal

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.1, inplace=True),
    "elu in place": lambda: nn.ELU(inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "dropout": lambda: nn.Dropout(0.5, inplace=True),
    "identity": nn.Identity,
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_mlp(activation="relu", bias=True, dtype=torch.float64, sizes=(20, 16, 12, 5)):
    """Flatten, then linear layers with an activation object that serves everywhere between them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        act = ACTIVATIONS[activation]()
        layers = [nn.Flatten()]
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out, bias=bias), act]
        return nn.Sequential(*layers[:-1]).to(dtype).train()


def make_split(n=40, dtype=torch.float64, shape=(1, 4, 5), classes=5):
    g = generator(1)
    return Split(torch.randn(n, *shape, generator=g, dtype=dtype), torch.randint(0, classes, (n,), generator=g))


def draw_move(mask, radius, rng, layers=None):
    """A swap of up to ``radius`` units against as many, within ``layers`` if they are given."""
    bits = mask.bits.numpy()
    allowed = np.zeros(len(bits), dtype=bool)
    for layer in layers or mask.space.layers:
        allowed[layer.slice] = True
    kept, pruned = np.flatnonzero(bits & allowed), np.flatnonzero(~bits & allowed)
    radius = min(radius, len(kept), len(pruned))
    return Move(rng.choice(kept, radius, replace=False), rng.choice(pruned, radius, replace=False))


def incremental(model, space, images):
    chain = linear_chain(model.eval())
    assert chain is not None
    return IncrementalPath(chain, space, images)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["accept", "accept", "reject", "reject", "jump", "same", "one layer", "refresh", "mask"]),
        st.sampled_from([1, 2, 5, 30, 1000]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=120, deadline=None)
@given(
    steps=STEPS,
    seed=st.integers(0, 2**32 - 1),
    density=st.sampled_from([0.02, 0.3, 0.9, 1.0]),
    bias=st.booleans(),
    activation=st.sampled_from(list(ACTIVATIONS)),
    exclude=st.sampled_from([(), ("1",), ("3",), ("5",), ("1", "5")]),
)
def test_any_walk_has_the_logits_of_the_reference(steps, seed, density, bias, activation, exclude):
    model, images = make_mlp(activation, bias), make_split().images
    space = weight_space(model, exclude=exclude)
    path, reference = incremental(model, space, images), ReferencePath(model, space, images, 17)
    rng = np.random.default_rng(seed)

    def unrelated():
        return space.random(density, generator=generator(int(rng.integers(2**31))), on_empty="allow")

    base = unrelated()
    for step, radius in steps:
        if step == "refresh":
            path.refresh()
        if step == "jump":
            base = unrelated()
        layers = [space.layers[rng.integers(len(space.layers))]] if step == "one layer" else None
        move = Move.nowhere() if step == "same" else draw_move(base, radius, rng, layers)
        proposal = Proposal.of(unrelated()) if step == "mask" else Proposal.moving(base, move)
        difference = (path.logits(proposal) - reference.logits(proposal)).abs().max()
        assert difference <= 1e-12
        if step in ("accept", "one layer"):
            base = proposal.mask


def walk(path, space, steps, rng, base):
    """Accept every other move; the last proposal."""
    for number in range(steps):
        proposal = Proposal.moving(base, draw_move(base, int(rng.integers(1, 8)), rng))
        path.logits(proposal)
        base = proposal.mask if number % 2 else base
    return proposal


def test_rounding_errors_stay_small_in_float32_and_refresh_ends_them():
    model, images = make_mlp(dtype=torch.float32), make_split(dtype=torch.float32).images
    space = weight_space(model)
    path, reference = incremental(model, space, images), ReferencePath(model, space, images, len(images))
    last = walk(path, space, path.refresh_every, np.random.default_rng(0), space.random(0.3, generator=generator()))
    again = Proposal.moving(last.base, last.move)
    drifted, exact = path.logits(again).clone(), reference.logits(again)
    assert (drifted - exact).abs().max() <= 1e-5 * exact.std()
    fresh = incremental(model, space, images).logits(again).clone()
    assert not torch.equal(drifted, fresh)  # else there is no drift, and nothing that refresh() could end
    path.refresh()
    assert torch.equal(path.logits(again), fresh)


def test_an_interruption_in_the_middle_of_a_scoring_is_forgotten(monkeypatch):
    model, images = make_mlp(), make_split().images
    space = weight_space(model)
    path, reference = incremental(model, space, images), ReferencePath(model, space, images, len(images))
    rng, base = np.random.default_rng(0), space.random(0.5, generator=generator())
    path.logits(Proposal.of(base))
    path.logits(Proposal.moving(base, draw_move(base, 20, rng)))
    inner, calls = path._change, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return inner(*args)

    monkeypatch.setattr(path, "_change", interrupted)
    with pytest.raises(KeyboardInterrupt):
        path.logits(Proposal.moving(base, draw_move(base, 20, rng)))
    after = Proposal.moving(base, draw_move(base, 3, rng))
    assert (path.logits(after) - reference.logits(after)).abs().max() <= 1e-12


@pytest.mark.parametrize("objective", ["accuracy", "loss", "calibrated_loss"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_scores_of_the_fast_and_the_plain_scorer_agree(objective, dtype):
    model, split = make_mlp("tanh", bias=False, dtype=dtype), make_split(dtype=dtype)
    space = weight_space(model)
    fast, plain = Scorer(model, space, split, objective), Scorer(model, space, split, objective, fast=False)
    assert (fast.refresh_every, plain.refresh_every) == (IncrementalPath.refresh_every, 1)
    base, rng = space.random(0.3, generator=generator()), np.random.default_rng(0)
    proposals = [Proposal.of(base)]
    for _ in range(30):
        proposals.append(Proposal.moving(base, draw_move(base, 10, rng)))
        base = proposals[-1].mask
    one, two = ([score.value for score in each.score(proposals)] for each in (fast, plain))
    assert one == pytest.approx(two, abs=1e-12 if dtype is torch.float64 else 1e-5)
    assert len(set(one)) > 5


@pytest.mark.parametrize(
    ("dtype", "objective"),
    [(torch.float64, "accuracy"), (torch.float64, "calibrated_loss"), (torch.float32, "accuracy")],
    ids=str,
)
def test_annealing_walks_the_same_way_on_either_path(dtype, objective):
    model, split = make_mlp(dtype=dtype), make_split(80, dtype)
    with torch.no_grad():
        for layer in (model[1], model[3], model[5]):
            layer.weight *= 4  # else the biases decide
    space = weight_space(model)
    fast, plain = (
        search(space, Annealing(), Scorer(model, space, split, objective, fast=fast), 0.3, budget=500, seed=0)
        for fast in (True, False)
    )
    assert [trial.mask_hash for trial in fast] == [trial.mask_hash for trial in plain]
    assert fast.best.mask == plain.best.mask
    assert fast.best.score.value > fast.trials[0].score.value
    values = [trial.score.value for trial in fast]
    assert values == pytest.approx([trial.score.value for trial in plain], abs=1e-12)
    assert len(set(values)) > 20


def test_predictions_differ_only_where_the_largest_logits_are_exactly_equal():
    """Without biases, cut-off neurons make logits of exactly zero, and rounding decides between them."""
    model, images = make_mlp(bias=False), make_split(80).images
    space = weight_space(model)
    path, reference = incremental(model, space, images), ReferencePath(model, space, images, len(images))
    rng, base = np.random.default_rng(0), space.random(0.15, generator=generator())
    for number in range(300):
        proposal = Proposal.moving(base, draw_move(base, 5, rng))
        one, two = path.logits(proposal), reference.logits(proposal)
        others = one.argmax(1) != two.argmax(1)
        largest = two[others].topk(2).values
        assert torch.equal(largest[:, 0], largest[:, 1])
        base = proposal.mask if number % 2 else base


class OwnSequential(nn.Sequential):
    """A chain whose forward is its own."""

    def forward(self, images):
        return super().forward(images) * 2


class OwnLinear(nn.Linear):
    """A linear layer whose forward is its own."""

    def forward(self, images):
        return super().forward(images).abs()


class OwnReLU(nn.ReLU):
    """An activation that looks at all neurons."""

    def forward(self, values):
        return values - values.mean(1, keepdim=True)


class OwnFlatten(nn.Flatten):
    """No flattening alone."""

    def forward(self, images):
        return super().forward(images).flip(1)


class Residual(nn.Module):
    """x + linear(x)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 20)

    def forward(self, values):
        return values + self.layer(values)


def tied():
    first, second = nn.Linear(20, 20), nn.Linear(20, 20)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)


def hooked(register, place):
    model = make_mlp(dtype=torch.float32)
    getattr(model if place is None else model[place], register)(
        lambda *args: args[-1] * 2 if "pre" not in register else None
    )
    return model


def repeated():
    layer = nn.Linear(20, 20)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)


def own_linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 8), OwnLinear(8, 5))


def parametrized():
    model = make_mlp(dtype=torch.float32)
    nn.utils.parametrizations.weight_norm(model[3])
    return model


def pruned_by_torch():
    model = make_mlp(dtype=torch.float32)
    nn.utils.prune.l1_unstructured(model[3], "weight", 0.5)
    return model


NO_CHAINS = {
    "hook on the model": lambda: hooked("register_forward_hook", None),
    "hook on a layer": lambda: hooked("register_forward_hook", 3),
    "hook on an activation": lambda: hooked("register_forward_hook", 2),
    "pre-hook on the model": lambda: hooked("register_forward_pre_hook", None),
    "pre-hook on a layer": lambda: hooked("register_forward_pre_hook", 1),
    "subclass of Sequential": lambda: OwnSequential(nn.Flatten(), nn.Linear(20, 5)),
    "subclass of Linear": own_linear,
    "subclass of an activation": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 8), OwnReLU(), nn.Linear(8, 5)),
    "subclass of Flatten": lambda: nn.Sequential(OwnFlatten(), nn.Linear(20, 5)),
    "residual": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 20), Residual(), nn.Linear(20, 5)),
    "BatchNorm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)),
    "LayerNorm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.LayerNorm(8), nn.Linear(8, 5)),
    "softmax": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 5), nn.Softmax(dim=1)),
    "log softmax": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 5), nn.LogSoftmax(dim=1)),
    "PReLU": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.PReLU(8), nn.Linear(8, 5)),
    "partial Flatten": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(20, 5), nn.Flatten()),
    "Flatten of everything": lambda: nn.Sequential(nn.Flatten(0), nn.Linear(20, 5)),
    "Flatten in the middle": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 5), nn.Flatten()),
    "activation first": lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(20, 5)),
    "convolution": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(12, 5)),
    "nested": lambda: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(20, 5), nn.ReLU())),
    "a layer twice": repeated,
    "a weight twice": tied,
    "parametrization": parametrized,
    "mask of torch's own": pruned_by_torch,
    "no linear layer": lambda: nn.Sequential(nn.Flatten()),
    "a layer alone": lambda: nn.Linear(20, 5),
}


@pytest.mark.parametrize("make", NO_CHAINS.values(), ids=NO_CHAINS)
def test_whatever_is_not_a_plain_chain_is_refused(make):
    assert linear_chain(make()) is None


def test_plain_chains_are_found_with_activations_that_serve_twice():
    chain = linear_chain(make_mlp())
    assert [(name, len(after)) for name, _, after in chain] == [("1", 1), ("3", 1), ("5", 0)]
    assert linear_chain(nn.Sequential(nn.Linear(20, 8), nn.GELU(), nn.Dropout(), nn.Linear(8, 5))) is not None


@pytest.mark.parametrize("name", ["a layer twice", "pre-hook on a layer", "subclass of an activation"])
def test_scores_of_other_networks_are_those_of_the_network(name):
    model = NO_CHAINS[name]().float()
    split = make_split(dtype=torch.float32)
    space = weight_space(model)
    value = Scorer(model, space, split, "loss")(space.full()).value
    assert value == pytest.approx(-F.cross_entropy(model.eval()(split.images), split.labels).item(), rel=1e-5)


class Stop(Exception):  # noqa: N818 (no error)
    """Ends a search from within."""


@pytest.mark.parametrize("stops", [(100,), (33, 97, 150)], ids=str)
def test_a_search_taken_up_again_is_byte_for_byte_one_that_never_stopped(stops, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKPOINT_EVERY", -1.0)
    monkeypatch.setattr(IncrementalPath, "refresh_every", 32)
    monkeypatch.setattr(scorer, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    events = []
    checkpoint, refresh, logits = HistoryFile.checkpoint, IncrementalPath.refresh, IncrementalPath.logits
    monkeypatch.setattr(HistoryFile, "checkpoint", lambda *a: (events.append("checkpoint"), checkpoint(*a))[1])
    monkeypatch.setattr(IncrementalPath, "refresh", lambda *a: (events.append("refresh"), refresh(*a))[1])
    monkeypatch.setattr(IncrementalPath, "logits", lambda *a: (events.append("score"), logits(*a))[1])
    model, split = make_mlp(dtype=torch.float32), make_split(dtype=torch.float32)
    space = weight_space(model)

    def run(folder, stop=None):
        def callback(trial, history, searcher):
            if trial.number == stop and len(history) == stop + 1:
                raise Stop

        new = Scorer(model, space, split, "loss")
        return search(space, Annealing(), new, 0.3, budget=200, seed=0, folder=folder, callbacks=[callback])

    whole = run(tmp_path / "whole")
    assert "checkpoint" in events[:-1]
    assert all(before == "refresh" for before, now in pairwise(events[:-1]) if now == "checkpoint")
    for stop in stops:
        with pytest.raises(Stop):
            run(tmp_path / "stopped", stop)
    resumed = run(tmp_path / "stopped")
    assert [trial.score.value for trial in resumed] == [trial.score.value for trial in whole]
    for name in ("history.jsonl", "moves.i32", "search.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len([json.loads(line) for line in (tmp_path / "whole" / "history.jsonl").open()]) == 200


class Net(nn.Module):
    """A residual block, BatchNorm, and a linear head behind a flattening."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.norm2 = nn.Conv2d(6, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.outer, self.norm3 = nn.Conv2d(5, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(6 * 9, 5)

    def forward(self, images):
        x = F.relu(self.norm1(self.stem(images)))
        y = F.relu(self.norm2(self.inner(x)))
        return self.head(self.pool(F.relu(x + self.norm3(self.outer(y)))).flatten(1))


def make_conv_net(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net().to(dtype)
        for norm in (net.norm1, net.norm2, net.norm3):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        return net.eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("density", [0.9, 0.5, 0.2])
def test_filter_masks_are_scored_on_the_pruned_network_as_the_reference_scores_them(density, dtype, tolerance):
    model, split = make_conv_net(dtype), make_split(30, dtype, (1, 6, 6))
    space = filter_space(model, split.images[:1])
    compact, reference = CompactPath(model, space, split.images, 8), ReferencePath(model, space, split.images, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = []
    for seed in range(4):
        proposal = Proposal.of(space.random(density, generator=generator(seed), on_empty="keep_one"))
        seen.append(compact.logits(proposal))
        assert (seen[-1] - reference.logits(proposal)).abs().max() <= tolerance * seen[-1].std()
    assert len({logits.sum().item() for logits in seen}) > 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_filter_mask_that_empties_a_layer_is_scored_masked():
    model, split = make_conv_net(torch.float32), make_split(30, torch.float32, (1, 6, 6))
    space = filter_space(model, split.images[:1])
    bits = torch.ones(space.n_units, dtype=torch.bool)
    inner = next(layer for layer in space.layers if layer.name == "inner")
    bits[inner.slice] = False
    mask = Mask(space, bits)
    fast, plain = (Scorer(model, space, split, "loss", fast=fast) for fast in (True, False))
    assert fast(mask).value == plain(mask).value
    assert math.isfinite(fast(mask).value)
    x = F.relu(model.norm1(model.stem(split.images)))  # the branch brings nothing but its last BatchNorm's constant
    y = x + model.norm3(torch.zeros_like(x))
    wanted = -F.cross_entropy(model.head(model.pool(F.relu(y)).flatten(1)), split.labels).item()
    assert fast(mask).value == pytest.approx(wanted, rel=1e-5)


def test_paths_are_chosen_by_space_and_network():
    split = make_split(30, torch.float32, (1, 6, 6))
    conv = make_conv_net(torch.float32)
    filters, weights = filter_space(conv, split.images[:1]), weight_space(conv)
    mlp = make_mlp(dtype=torch.float32, sizes=(36, 8, 5))
    chosen = [
        (type(Scorer(model, space, split, fast=fast)._path), fast)
        for model, space in ((conv, filters), (conv, weights), (mlp, weight_space(mlp)))
        for fast in (True, False)
    ]
    fast = [path for path, is_fast in chosen if is_fast]
    assert fast == [CompactPath, ReferencePath, IncrementalPath]
    assert {path for path, is_fast in chosen if not is_fast} == {ReferencePath}
