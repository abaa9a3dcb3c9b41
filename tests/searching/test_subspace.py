"""Subspaces of the units that a mask keeps: masks, moves and scores equal those of the whole space."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from masksearch.core.mask import Mask, Move
from masksearch.core.problem_and_trials import Proposal
from masksearch.core.space import MaskSpace
from masksearch.data import Split
from masksearch.scoring import Scorer
from masksearch.scoring.paths.compact import CompactPath
from masksearch.scoring.paths.incremental import IncrementalPath
from masksearch.searchers import SEARCHERS
from masksearch.searching.search_function import search
from masksearch.searching.subspace import Subspace, SubspaceScorer
from masksearch.spaces import filter_space, weight_space
from masksearch.utils.errors import InputError


@st.composite
def alive_masks(draw):
    """A mask of a layout, with at least one unit alive; whole layers may be empty."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    space = MaskSpace([(f"layer{i}", (size, 3), size) for i, size in enumerate(sizes)], "weight")
    bits = draw(st.lists(st.booleans(), min_size=space.n_units, max_size=space.n_units).filter(any))
    return Mask(space, torch.tensor(bits))


def inner_masks(space, data):
    bits = data.draw(st.lists(st.booleans(), min_size=space.n_units, max_size=space.n_units))
    return Mask(space, torch.tensor(bits))


@given(alive_masks(), st.data())
def test_lifted_masks_are_nested_in_alive_and_keep_the_same_units(alive, data):
    space = Subspace(alive)
    mask = inner_masks(space, data)
    lifted = space.lifted(mask)
    assert lifted.space is alive.space
    assert not (lifted.bits & ~alive.bits).any()
    assert torch.equal(space.reduced(lifted.bits), mask.bits)
    kept = lifted.kept_per_layer()
    assert {name: n for name, n in kept.items() if alive.kept_per_layer()[name]} == mask.kept_per_layer()
    assert space.lifted(space.full()) == alive


@given(alive_masks())
def test_layers_of_a_subspace_are_layers_with_kept_units(alive):
    space = Subspace(alive)
    sizes = {layer.name: layer.size for layer in space.layers}
    assert sizes == {name: kept for name, kept in alive.kept_per_layer().items() if kept}
    shapes = {layer.name: layer.shape for layer in alive.space.layers}
    assert all(layer.shape == shapes[layer.name] for layer in space.layers)  # for ERK
    assert space.granularity == alive.space.granularity
    per_unit = torch.arange(alive.space.n_units)
    assert (space.reduced(per_unit).diff() > 0).all()


@given(alive_masks(), st.data())
def test_lifted_moves_lead_to_lifted_masks(alive, data):
    space = Subspace(alive)
    one, other = inner_masks(space, data), inner_masks(space, data)
    move = one.move_to(other)
    lifted = space.lifted_move(move)
    assert (len(lifted.dropped), len(lifted.regrown)) == (len(move.dropped), len(move.regrown))
    assert space.lifted(one).moved(lifted) == space.lifted(other)


@given(alive_masks(), st.floats(0.01, 1))
def test_subspace_density_converts_a_share_of_all_units(alive, of_all):
    space, n = Subspace(alive), alive.space.n_units
    if round(of_all * n) > alive.n_kept:
        with pytest.raises(InputError, match=r"density: .* earlier rounds left \d+"):
            space.density(of_all)
    else:
        assert round(space.density(of_all) * space.n_units) == round(of_all * n)


def make_mlp():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 5))


def make_cnn():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 10, 3), nn.ReLU(), nn.Conv2d(10, 12, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)
        )


def make_split():
    g = torch.Generator().manual_seed(1)
    return Split(torch.randn(40, 1, 4, 5, generator=g), torch.randint(0, 5, (40,), generator=g))


KINDS = {"weight": (make_mlp, IncrementalPath), "filter": (make_cnn, CompactPath)}


class Recording(SubspaceScorer):
    """Records every proposal and its score."""

    def __init__(self, scorer, space):
        super().__init__(scorer, space)
        self.records, self.large = [], []
        inner = scorer.score
        scorer.score = lambda proposals: (self.large.extend(proposals), inner(proposals))[1]

    def score(self, proposals):
        scores = super().score(proposals)
        self.records += zip(proposals, scores, strict=True)
        return scores


@pytest.mark.parametrize("granularity", KINDS)
@pytest.mark.parametrize("name", ["annealing", "random_search", "eda", "evolution", "annealing_thesis_mlp"])
def test_scores_of_a_search_in_a_subspace_equal_reference_scores_of_lifted_masks(name, granularity):
    make, path = KINDS[granularity]
    model, split = make(), make_split()
    whole = weight_space(model) if granularity == "weight" else filter_space(model, split.images[:1])
    alive = whole.random(0.5, "layerwise", torch.Generator().manual_seed(3))
    space = Subspace(alive)
    fast = Scorer(model, whole, split, "loss")
    assert isinstance(fast._path, path)
    plain = Scorer(model, whole, split, "loss", fast=False)
    scorer = Recording(fast, space)
    history = search(space, SEARCHERS[name](), scorer, space.density(0.2), budget=60, seed=1, on_empty="allow")
    assert len({proposal.mask.hash for proposal, _ in scorer.records}) > 10
    for (small, score), large in zip(scorer.records, scorer.large, strict=True):
        lifted = space.lifted(small.mask)
        assert large.mask == lifted
        assert lifted.n_kept == whole.count(0.2)
        assert not (lifted.bits & ~alive.bits).any()
        assert len(large.move) == len(small.move)  # moves of the same size
        assert score.value == pytest.approx(plain(lifted).value, abs=1e-5)
    assert plain(space.lifted(history.best.mask)).value == pytest.approx(history.best.score.value, abs=1e-5)


def test_subspace_scorer_lifts_moves_from_any_earlier_mask():
    """Populations continue from any member, walks from one of the last two masks."""
    model, split = make_mlp(), make_split()
    whole = weight_space(model)
    g = torch.Generator().manual_seed(0)
    space = Subspace(whole.random(0.6, generator=g))
    scorer = SubspaceScorer(Scorer(model, whole, split, "loss"), space)
    plain = Scorer(model, whole, split, "loss", fast=False)
    masks = [space.random(0.4, generator=g) for _ in range(4)]
    proposals = [Proposal.of(mask) for mask in masks]
    for base in [*masks, *reversed(masks)]:
        kept, pruned = base.bits.nonzero().flatten().numpy(), (~base.bits).nonzero().flatten().numpy()
        proposals.append(Proposal.moving(base, Move(kept[:3], pruned[-3:])))
    scores = scorer.score(proposals)
    for proposal, score in zip(proposals, scores, strict=True):
        assert score.value == pytest.approx(plain(space.lifted(proposal.mask)).value, abs=1e-5)


def test_subspace_scorer_refreshes_the_inner_scorer():
    model, split = make_mlp(), make_split()
    whole = weight_space(model)
    scorer = Scorer(model, whole, split)
    space = Subspace(whole.full())
    assert SubspaceScorer(scorer, space).refresh_every == scorer.refresh_every
    calls = []
    scorer.refresh = lambda: calls.append(True)
    SubspaceScorer(scorer, space).refresh()
    assert calls == [True]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_accuracy_in_a_subspace_equals_accuracy_of_the_lifted_mask(seed):
    model, split = make_mlp(), make_split()
    whole = weight_space(model)
    g = torch.Generator().manual_seed(seed)
    alive = whole.random(0.5, generator=g)
    space = Subspace(alive)
    mask = space.random(0.5, generator=g, on_empty="allow")
    [score] = SubspaceScorer(Scorer(model, whole, split), space).score([Proposal.of(mask)])
    with whole.applied(model, space.lifted(mask)), torch.no_grad():
        right = (model(split.images).argmax(1) == split.labels).float().mean()
    assert score.value == pytest.approx(float(right))
