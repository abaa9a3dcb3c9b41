"""Accuracies with early stopping at a threshold: exact values or true bounds on every path, and the same searches."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from path_cases import generator
from torch import nn

from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Proposal
from masksearch.data import Split
from masksearch.models import build_model
from masksearch.scoring import Scorer, scorer
from masksearch.scoring.paths.incremental import IncrementalPath
from masksearch.searchers import EDA, Annealing, Evolution
from masksearch.searching import trial_loop
from masksearch.searching.history_store import HistoryFile
from masksearch.searching.search_function import search
from masksearch.spaces import filter_space, weight_space


def make_mlp(dtype, bias=True):
    """Return a network with scaled weights, so that logits depend on the images and not on biases."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [
            nn.Linear(20, 24, bias=bias),
            nn.ReLU(),
            nn.Linear(24, 16, bias=bias),
            nn.ReLU(),
            nn.Linear(16, 5, bias),
        ]
        model = nn.Sequential(nn.Flatten(), *layers).to(dtype).eval()
        with torch.no_grad():
            for layer in (model[1], model[3], model[5]):
                layer.weight *= 3  # else predictions depend on the biases only
        return model


def make_split(model, n, shape, dtype=torch.float32, right=0.9):
    """Random images; a share of the labels are the network's predictions."""
    g = generator(1)
    images = torch.randn(n, *shape, generator=g, dtype=dtype)
    with torch.no_grad():
        guesses = model(images).argmax(1)
    others = torch.randint(0, 5, (n,), generator=g)
    return Split(images, torch.where(torch.rand(n, generator=g) < right, guesses, others))


def draw_move(mask, radius, rng):
    bits = mask.bits.numpy()
    kept, pruned = np.flatnonzero(bits), np.flatnonzero(~bits)
    radius = min(radius, len(kept), len(pruned))
    return Move(rng.choice(kept, radius, replace=False), rng.choice(pruned, radius, replace=False))


def small_network(name):
    """A network of the table, a space of its masks, and images of a size that suits it."""
    if name in ("lenet_300_100", "thesis_mlp", "fc"):
        model = build_model(f"{name}:0.2", (1, 6, 6), classes=5).eval()
        return model, weight_space(model), make_split(model, 90, (1, 6, 6))
    network, kind = name.split(" ")
    side = 28 if network.startswith("lenet5") else 32
    shape = (1 if network.startswith("lenet5") else 3, side, side)
    model = build_model(network, shape, classes=5).eval()
    space = weight_space(model) if kind == "weights" else filter_space(model, torch.zeros(1, *shape))
    return model, space, make_split(model, 40, shape)


NETWORKS = [
    "lenet_300_100",
    "thesis_mlp",
    "fc",
    "lenet5:0.5 weights",
    "conv2:0.1 filters",
    "basic_cnn:0.1 filters",
    "vgg11:0.1 filters",
    "vgg11_bn:0.1 weights",
    "vgg11_bn:0.1 filters",
    "resnet20:0.25 weights",
    "resnet20:0.5 filters",
    "resnetb20:0.2 filters",
]
"""Every family of the table, narrow."""

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["accept", "reject", "reject", "jump", "refresh"]),
        st.sampled_from([1, 5, 40]),
        st.sampled_from([None, -0.1, 0.0, 0.1, 0.3, 2.0]),  # the threshold, relative to the base's accuracy
    ),
    min_size=2,
    max_size=8,
)
CACHE = {}


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=6, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 2**32 - 1), density=st.sampled_from([0.2, 0.4, 0.8]))
def test_stopped_accuracies_are_exact_or_upper_bounds_below_the_threshold(name, steps, seed, density):
    if name not in CACHE:
        CACHE[name] = small_network(name)
    model, space, split = CACHE[name]
    fast, plain = Scorer(model, space, split, batch_size=16), Scorer(model, space, split, batch_size=16, fast=False)
    rng = np.random.default_rng(seed)

    def unrelated():
        return space.random(density, generator=generator(int(rng.integers(2**31))), on_empty="allow")

    base = unrelated()
    for step, radius, above in steps:
        if step == "refresh":
            fast.refresh()
        proposal = Proposal.of(unrelated()) if step == "jump" else Proposal.moving(base, draw_move(base, radius, rng))
        wanted = plain(proposal.mask).value
        threshold = None if above is None else wanted + above
        [score] = fast.score([replace(proposal, threshold=threshold)])
        if score.exact:
            assert (score.value, score.images) == (wanted, len(split.labels))
        else:
            assert wanted <= score.value < threshold
            assert 0 < score.images < len(split.labels)
        if step != "reject":
            base = proposal.mask


def run(scorer, space, searcher, budget):
    history = search(space, searcher, scorer, 0.4, budget=budget, seed=0, on_empty="keep_one")
    return history, [(t.mask_hash, t.is_best, t.metrics) for t in history]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_2000_steps_of_annealing_are_equal_with_and_without_early_stopping(dtype):
    model = make_mlp(dtype, bias=False)
    space, split = weight_space(model), make_split(model, 200, (1, 4, 5), dtype)
    stopping, steps = run(Scorer(model, space, split), space, Annealing(), 2000)
    whole, wanted = run(Scorer(model, space, split, fast=False), space, Annealing(), 2000)
    assert steps == wanted
    assert stopping.best.mask == whole.best.mask
    assert stopping.best_so_far() == whole.best_so_far()
    bounds = [t.number for t in stopping if not t.score.exact]
    assert len(bounds) > 500
    for one, two in zip(stopping, whole, strict=True):
        assert two.score.exact
        assert one.score.value == two.score.value if one.score.exact else one.score.value >= two.score.value
    assert sum(t.score.images for t in stopping) < 0.9 * sum(t.score.images for t in whole)


@pytest.mark.parametrize("searcher", [Annealing, EDA, Evolution], ids=lambda make: make.__name__)
@pytest.mark.parametrize("kind", ["weights", "filters"])
def test_searches_are_equal_with_and_without_early_stopping(searcher, kind):
    shape = (3, 12, 12)
    model = build_model("conv2:0.05", shape, classes=5, seed=1).eval()
    space = weight_space(model) if kind == "weights" else filter_space(model, torch.zeros(1, *shape))
    split = make_split(model, 60, shape)
    stopping, steps = run(Scorer(model, space, split), space, searcher(), 150)
    _, wanted = run(Scorer(model, space, split, fast=False), space, searcher(), 150)
    assert steps == wanted
    assert not all(t.score.exact for t in stopping)


def test_images_are_scored_in_order_of_margins_until_the_threshold_is_out_of_reach(monkeypatch):
    model = make_mlp(torch.float64)
    space, split = weight_space(model), make_split(model, 200, (1, 4, 5), torch.float64)
    fast = Scorer(model, space, split)
    mask = space.random(0.9, generator=generator())
    value = fast(mask).value
    with torch.no_grad(), space.applied(model, mask):
        logits = model(split.images)
    own = logits.gather(1, split.labels[:, None])[:, 0]
    margins = own - logits.scatter(1, split.labels[:, None], -math.inf).amax(1)
    seen, parts = [], IncrementalPath.parts
    monkeypatch.setattr(IncrementalPath, "parts", lambda path, *args: (seen.append(args[1]), parts(path, *args))[1])
    [score] = fast.score([replace(Proposal.of(mask), threshold=value + 0.01)])
    order = torch.cat(tuple(seen[0]))
    assert sorted(order.tolist()) == list(range(200))
    assert margins[order].diff().min() >= 0
    assert (score.exact, score.value < value + 0.01) == (False, True)
    assert score.images < 200 * (1 - value + 0.1)
    [score] = fast.score([replace(Proposal.of(mask), threshold=value)])  # threshold reached: exact value
    assert (score.exact, score.value) == (True, value)


class Overflowing(nn.Module):
    """Its logits are infinite for one image under most masks."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, images):
        return self.layer(images.flatten(1)) * images.flatten(1).abs().amax(1, keepdim=True) ** 40


def test_infinite_logits_score_nan_on_fast_and_reference_paths():
    model = Overflowing()
    split = Split(torch.cat([torch.rand(9, 1, 2, 2), torch.full((1, 1, 2, 2), 10.0)]), torch.arange(10) % 3)
    space = weight_space(model)
    fast, plain = (Scorer(model, space, split, fast=fast) for fast in (True, False))
    assert math.isnan(plain(space.full()).value)
    assert math.isnan(fast(space.full()).value)


def test_images_with_logits_within_rounding_are_scored_by_the_reference_path(monkeypatch):
    """A path with errors of the size of rounding has the reference's accuracies."""
    model = make_mlp(torch.float32)
    space, split = weight_space(model), make_split(model, 100, (1, 4, 5), right=0.5)
    with torch.no_grad():
        model[5].weight[1:] = model[5].weight[:1] * (1 + 1e-7 * torch.randn(4, 1, generator=generator()))
        model[5].bias.zero_()
    fast, plain = Scorer(model, space, split), Scorer(model, space, split, fast=False)
    inner = IncrementalPath.parts

    def noisy(path, proposal, places):
        for logits in inner(path, proposal, places):
            yield logits * (1 + 1e-7 * torch.randn(logits.shape, generator=generator(3)))

    monkeypatch.setattr(IncrementalPath, "parts", noisy)
    for seed in range(5):
        mask = space.random(0.9, generator=generator(seed))
        mask = Mask(space, torch.cat([mask.bits[:-80], torch.ones(80, dtype=torch.bool)]))
        assert fast(mask).value == plain(mask).value


def test_scorer_refreshes_the_path_after_every_refresh_every_scorings(monkeypatch):
    model = make_mlp(torch.float32)
    space, split = weight_space(model), make_split(model, 50, (1, 4, 5))
    monkeypatch.setattr(IncrementalPath, "refresh_every", 16)
    fast = Scorer(model, space, split)
    seen, refresh = [], Scorer.refresh
    monkeypatch.setattr(Scorer, "refresh", lambda scorer: (seen.append(True), refresh(scorer)))
    for seed in range(40):
        fast(space.random(0.5, generator=generator(seed)))
    assert len(seen) == 2


class Stop(Exception):  # noqa: N818 (no error)
    """Ends a search from within."""


@pytest.mark.parametrize("kind", ["weights of a chain", "filters"])
def test_files_of_resumed_search_with_early_stopping_equal_uninterrupted_search(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryFile, "checkpoint_seconds", -1.0)
    monkeypatch.setattr(IncrementalPath, "refresh_every", 32)
    monkeypatch.setattr(scorer, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    monkeypatch.setattr(trial_loop, "time", SimpleNamespace(perf_counter=lambda: 0.0, monotonic=lambda: 0.0))
    if kind == "filters":
        model = build_model("conv2:0.05", (3, 12, 12), classes=5).eval()
        space, split = filter_space(model, torch.zeros(1, 3, 12, 12)), make_split(model, 60, (3, 12, 12))
    else:
        model = make_mlp(torch.float32)
        space, split = weight_space(model), make_split(model, 100, (1, 4, 5))

    def run(folder, stop=None):
        def callback(trial, history, searcher):
            if trial.number == stop and len(history) == stop + 1:
                raise Stop

        new = Scorer(model, space, split)
        return search(space, Annealing(), new, 0.4, budget=200, seed=0, folder=folder, callbacks=[callback])

    whole = run(tmp_path / "whole")
    assert not all(trial.score.exact for trial in whole)
    for stop in (50, 131):
        with pytest.raises(Stop):
            run(tmp_path / "stopped", stop)
    run(tmp_path / "stopped")
    for name in ("history.jsonl", "moves.i32", "search.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "whole" / "history.jsonl").open()]
    assert any(row["exact"] is False and row["images"] < len(split.labels) for row in rows)
    assert all(before["number"] + 1 == row["number"] for before, row in pairwise(rows))
