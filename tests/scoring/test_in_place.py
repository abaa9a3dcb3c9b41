"""The in-place path changes weights by moves: its logits equal the reference path's bit for bit, after any walk."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from path_cases import generator
from torch import nn

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal
from masksearch.data import Split
from masksearch.models import MODELS, build_model
from masksearch.scoring.paths.in_place import InPlacePath, fits_in_one_tensor
from masksearch.scoring.paths.mlp_layers import linear_chain
from masksearch.scoring.paths.network_path import ReferencePath
from masksearch.scoring.scorer import Scorer
from masksearch.searchers import Annealing
from masksearch.searchers.moves.any_swap import Partition
from masksearch.searching.search_function import search
from masksearch.spaces import weight_space
from masksearch.utils.seeds import numpy_generator


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3, bias=False), nn.Flatten()),
        nn.Linear(3 * 16, 3),
    ).eval()


def both(model, images, batch_size=5):
    space = weight_space(model)
    return space, InPlacePath(model, space, images, batch_size), ReferencePath(model, space, images, batch_size)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["take", "take a copy", "leave", "leave two", "elsewhere", "again"]), max_size=12),
    st.integers(0, 99),
)
def test_logits_of_the_in_place_path_equal_the_reference_path_after_any_walk(steps, seed):
    space, moved, plain = both(convolutional(), torch.randn(12, 1, 8, 8, generator=generator(1)))
    rng, current = numpy_generator(seed, "walk"), space.random(0.4, generator=generator(seed))

    def check(proposal):
        assert torch.equal(moved.logits(proposal), plain.logits(proposal))
        order = torch.randperm(12, generator=generator(seed)).split(5)
        for one, other in zip(moved.parts(proposal, order), plain.parts(proposal, order), strict=True):
            assert torch.equal(one, other)

    check(Proposal.of(current))
    for step in steps:
        partition = Partition(current)
        proposals = [Proposal.moving(current, partition.draw(5, rng)) for _ in range(1 + (step == "leave two"))]
        if step == "elsewhere":
            proposals = [Proposal.of(space.random(0.3, generator=generator(seed + 1)))]
        if step == "again":
            proposals *= 2
        for proposal in proposals:
            check(proposal)
        if step == "take":
            current = proposals[0].mask
        if step == "take a copy":  # an equal mask that is another object
            current = Mask(space, proposals[0].mask.bits.clone())


def test_in_place_path_copies_the_model():
    model = convolutional()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space, moved, _ = both(model, torch.randn(12, 1, 8, 8, generator=generator(1)))
    proposal = Proposal.of(space.random(0.4, generator=generator()))
    logits = moved.logits(proposal)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.no_grad():
        model[0].weight.zero_()
    assert torch.equal(moved.logits(proposal), logits)


@pytest.mark.parametrize("name", [name for name, row in MODELS.items() if row.task == "classification"])
def test_searches_with_fast_and_reference_paths_are_equal_on_every_network(name):
    model = build_model(f"{name}:0.1", (3, 32, 32), seed=0).eval()
    space = weight_space(model)
    split = Split(torch.randn(4, 3, 32, 32, generator=generator(2)), torch.arange(4))
    walks = []
    for fast in (True, False):
        scorer = Scorer(model, space, split, "loss", fast=fast)
        history = search(space, Annealing(radius_start=0.1), scorer, 0.5, budget=6, on_empty="allow")
        walks.append(([trial.mask_hash for trial in history], [trial.score.value for trial in history]))
    (masks, scores), (plain_masks, plain_scores) = walks
    assert masks == plain_masks
    if linear_chain(model) is None:
        assert scores == plain_scores
    else:  # the incremental path, which rounds differently
        assert scores == pytest.approx(plain_scores, rel=1e-5)


def test_weights_of_two_types_or_channels_last_do_not_fit_the_in_place_path():
    mixed, laid_out = convolutional(), convolutional()
    mixed[5].double()
    laid_out.to(memory_format=torch.channels_last)
    assert fits_in_one_tensor(convolutional(), weight_space(convolutional()))
    assert not fits_in_one_tensor(mixed, weight_space(mixed))
    assert not fits_in_one_tensor(laid_out, weight_space(laid_out))
