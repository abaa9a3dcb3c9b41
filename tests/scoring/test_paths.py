"""The incremental path to the logits equals the reference path on any walk, and searches with both paths are equal."""

import json
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from path_cases import ACTIVATIONS, generator, make_mlp, make_split

from masksearch.core.mask import Move
from masksearch.core.problem_and_trials import Proposal
from masksearch.scoring import Scorer, scorer
from masksearch.scoring.paths.incremental import IncrementalPath
from masksearch.scoring.paths.mlp_layers import linear_chain
from masksearch.scoring.paths.network_path import ReferencePath
from masksearch.searchers import Annealing
from masksearch.searching import trial_loop
from masksearch.searching.history_store import HistoryFile
from masksearch.searching.search_function import search
from masksearch.spaces import weight_space


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
def test_logits_of_the_incremental_path_equal_the_reference_path_on_any_walk(
    steps, seed, density, bias, activation, exclude
):
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
    """Accept every other move; return the last proposal."""
    for number in range(steps):
        proposal = Proposal.moving(base, draw_move(base, int(rng.integers(1, 8)), rng))
        path.logits(proposal)
        base = proposal.mask if number % 2 else base
    return proposal


def test_rounding_errors_stay_small_in_float32_and_refresh_removes_them():
    model, images = make_mlp(dtype=torch.float32), make_split(dtype=torch.float32).images
    space = weight_space(model)
    path, reference = incremental(model, space, images), ReferencePath(model, space, images, len(images))
    last = walk(path, space, path.refresh_every, np.random.default_rng(0), space.random(0.3, generator=generator()))
    again = Proposal.moving(last.base, last.move)
    drifted, exact = path.logits(again).clone(), reference.logits(again)
    assert (drifted - exact).abs().max() <= 1e-5 * exact.std()
    fresh = incremental(model, space, images).logits(again).clone()
    assert not torch.equal(drifted, fresh)  # else there is no drift for refresh() to remove
    path.refresh()
    assert torch.equal(path.logits(again), fresh)


def test_interrupted_scoring_does_not_change_later_logits(monkeypatch):
    model, images = make_mlp(), make_split().images
    space = weight_space(model)
    path, reference = incremental(model, space, images), ReferencePath(model, space, images, len(images))
    rng, base = np.random.default_rng(0), space.random(0.5, generator=generator())
    path.logits(Proposal.of(base))
    path.logits(Proposal.moving(base, draw_move(base, 20, rng)))
    inner, calls = torch.addmm, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return inner(*args)

    monkeypatch.setattr(torch, "addmm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        path.logits(Proposal.moving(base, draw_move(base, 20, rng)))
    after = Proposal.moving(base, draw_move(base, 3, rng))
    assert (path.logits(after) - reference.logits(after)).abs().max() <= 1e-12


@pytest.mark.parametrize("objective", ["accuracy", "loss", "calibrated_loss"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_scores_of_fast_and_reference_paths_agree(objective, dtype):
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
def test_annealing_is_equal_on_fast_and_reference_paths(dtype, objective):
    model, split = make_mlp(dtype=dtype), make_split(80, dtype)
    with torch.no_grad():
        for layer in (model[1], model[3], model[5]):
            layer.weight *= 4  # else predictions depend on the biases only
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


class Stop(Exception):  # noqa: N818 (no error)
    """Ends a search from within."""


@pytest.mark.parametrize("stops", [(100,), (33, 97, 150)], ids=str)
def test_files_of_resumed_search_on_the_fast_path_equal_uninterrupted_search(stops, tmp_path, monkeypatch):
    monkeypatch.setattr(HistoryFile, "checkpoint_seconds", -1.0)
    monkeypatch.setattr(IncrementalPath, "refresh_every", 32)
    monkeypatch.setattr(scorer, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    monkeypatch.setattr(trial_loop, "time", SimpleNamespace(perf_counter=lambda: 0.0, monotonic=lambda: 0.0))
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
