"""Rounds with synthetic mask finding and training: the weights of each round, and input errors."""

import pytest
import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.pruning.physical import restore_state, slice_state
from masksearch.pruning.ticket import draw_ticket
from masksearch.schedules import round_densities
from masksearch.schedules.rounds import run_rounds
from masksearch.spaces import filter_space, weight_space
from masksearch.training import Training
from masksearch.training.record import EpochRow, copy_weights
from masksearch.utils.errors import InputError


def build():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(128, 4)
        ).eval()


def make_space(granularity):
    return weight_space(build()) if granularity == "weight" else filter_space(build(), torch.zeros(1, 1, 8, 8))


def weights_of(number):
    """Weights that all equal the given number."""
    return {name: torch.full_like(tensor, number) for name, tensor in build().state_dict().items()}


def choose(space):
    """Finds the first units of every layer that are alive: masks that nest."""

    def find(number, model, density, alive):
        saliency = torch.arange(space.n_units, 0, -1.0)
        if alive is not None:
            saliency = saliency.masked_fill(~alive.bits, -torch.inf)
        return space.top_k(saliency, density, "layerwise")

    return find


def add_one(number, ticket, mask):
    """A training that adds one to every weight that is left, BatchNorm's statistics included."""
    with torch.no_grad():
        for name, tensor in ticket.network.state_dict().items():
            tensor += 1
            if name in ticket.masks:
                tensor *= ticket.masks[name]
    return Training(ticket.network), mask


def under(space, mask, weights):
    """Weights under the mask: zero where it prunes; a removed filter also removes its BatchNorm channel."""
    if space.granularity == "weight":
        model = build()
        model.load_state_dict(weights)
        space.apply(model, mask)
        return copy_weights(model)
    return restore_state(space, mask, slice_state(space, mask, weights))


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_rounds_without_rewinding_continue_from_the_weights_of_the_previous_round(granularity):
    space = make_space(granularity)
    seen = []

    def find(number, model, density, alive):
        seen.append(copy_weights(model))
        return choose(space)(number, model, density, alive)

    rounds = list(
        run_rounds(
            build,
            space,
            round_densities(0.216, 3),
            weights_of(5),
            find=find,
            rewind=lambda number, weights: weights,
            train=add_one,
        )
    )
    assert [round_.number for round_ in rounds] == [1, 2, 3]
    assert [round_.mask.n_kept for round_ in rounds] == [space.count(d) for d in (0.6, 0.36, 0.216)]
    for r, (round_, network) in enumerate(zip(rounds, seen, strict=True), start=1):
        found_at = weights_of(5) if r == 1 else rounds[r - 2].trained
        assert same(round_.found_at, found_at)
        assert same(round_.rewound, found_at)
        assert same(network, found_at)  # what an earlier round has pruned is zero in it
        assert same(round_.trained, under(space, round_.mask, weights_of(5 + r)))
        assert not (round_.mask.bits & ~rounds[max(0, r - 2)].mask.bits).any()


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_rounds_with_rewinding_start_from_the_same_weights_and_statistics(granularity):
    space = make_space(granularity)
    starts = []

    def train(number, ticket, mask):
        starts.append((mask, ticket.weights(space, mask)))
        return add_one(number, ticket, mask)

    rounds = run_rounds(
        build,
        space,
        round_densities(0.25, 2),
        weights_of(5),
        find=choose(space),
        rewind=lambda number, weights: weights_of(2),
        train=train,
    )
    ended = list(rounds)
    for round_, (mask, start) in zip(ended, starts, strict=True):
        assert mask == round_.mask
        assert same(start, under(space, mask, weights_of(2)))
        assert same(round_.trained, under(space, mask, weights_of(3)))
    assert same(ended[1].found_at, ended[0].trained)


def test_rounds_without_training_keep_the_weights():
    space = make_space("weight")
    rounds = list(
        run_rounds(
            build,
            space,
            [0.5, 0.25, 0.125],
            weights_of(5),
            find=choose(space),
            rewind=lambda number, weights: weights,
            train=lambda number, ticket, mask: add_one(number, ticket, mask) if number == 2 else (None, mask),
        )
    )
    assert [float(round_.found_at["5.bias"][0]) for round_ in rounds] == [5, 5, 6]
    assert [round_.training is None for round_ in rounds] == [True, False, True]
    assert [float(round_.trained["5.bias"][0]) for round_ in rounds] == [5, 6, 6]


def test_diverged_round_leaves_the_weights_of_the_next_round_unchanged():
    space = make_space("weight")

    def train(number, ticket, mask):
        nan = float("nan")
        with torch.no_grad():
            for parameter in ticket.network.parameters():
                parameter.fill_(nan)
        return Training(ticket.network, [EpochRow(1, nan, 0.1, nan, 0.1, 1.0, 0.0)]), mask

    rounds = list(
        run_rounds(
            build,
            space,
            [0.5, 0.25],
            weights_of(5),
            find=choose(space),
            rewind=lambda number, weights: weights,
            train=train,
        )
    )
    assert all(same(round_.found_at, weights_of(5)) for round_ in rounds)
    assert all(round_.training.diverged for round_ in rounds)
    assert not (rounds[1].mask.bits & ~rounds[0].mask.bits).any()


def test_masks_that_are_not_nested_raise_input_error():
    space = make_space("weight")

    def find(number, model, density, alive):
        return space.random(density, generator=torch.Generator().manual_seed(number))

    rounds = run_rounds(
        build,
        space,
        [0.5, 0.25],
        weights_of(5),
        find=find,
        rewind=lambda number, weights: weights,
        train=lambda number, ticket, mask: (None, mask),
    )
    next(rounds)
    with pytest.raises(InputError, match=r"round 2: its mask keeps \d+ units that an earlier round pruned") as caught:
        next(rounds)
    assert "\n" not in str(caught.value)


def test_each_round_is_yielded_before_the_next_begins():
    space, begun = make_space("weight"), []

    def find(number, model, density, alive):
        begun.append(number)
        return choose(space)(number, model, density, alive)

    for round_ in run_rounds(
        build,
        space,
        [0.5, 0.4, 0.3],
        weights_of(5),
        find=find,
        rewind=lambda number, weights: weights,
        train=add_one,
    ):
        assert begun == list(range(1, round_.number + 1))


def test_filter_ticket_is_pruned_unless_a_layer_is_empty_or_masking_is_requested():
    space = make_space("filter")
    mask = space.random(0.5, "layerwise", torch.Generator().manual_seed(0))
    ticket = draw_ticket(build(), space, mask, build().state_dict())
    assert ticket.pruned
    assert ticket.masks == {}
    assert ticket.network[0].out_channels == 3
    whole = draw_ticket(build(), space, mask, build().state_dict(), physically=False)
    assert not whole.pruned
    assert set(whole.masks) == set(space.parameter_masks(mask))
    empty = Mask(space, mask.bits & (torch.arange(space.n_units) >= space.layers[1].start))
    zeroed = draw_ticket(build(), space, empty, build().state_dict())
    assert not zeroed.pruned
    assert not zeroed.network[0].weight.any()
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(ticket.network(images), whole.network(images), atol=1e-6)
