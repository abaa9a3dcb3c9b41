"""Lasting: the order in which gradual pruning lets go of units."""

import copy

import pytest
import torch
from test_dynamic import how, make_model, make_split

from masksearch.criteria import CRITERIA, select
from masksearch.dynamic import Gradual
from masksearch.lasting import lasting
from masksearch.spaces import filter_space, weight_space
from masksearch.training import train
from masksearch.training.record import copy_weights

STEPS = 25  # 5 epochs of 5


def spaces(model):
    return {"weight": weight_space(model), "filter": filter_space(model, torch.zeros(1, 1, 8, 8))}


@pytest.fixture(params=["weight", "filter"])
def world(request):
    model = make_model()
    name = "magnitude" if request.param == "weight" else "filter_l2"
    return model, spaces(model)[request.param], name


def test_the_top_units_are_those_that_gradual_pruning_keeps_at_every_change(world):
    model, space, name = world
    split, network, masks = make_split(), copy.deepcopy(model), []

    def remembered(density, alive):
        masks.append(select(name, network, space, [], density, alive=alive, on_empty="keep_one"))
        return masks[-1]

    train(network, split, how(), remask=Gradual(network, space, remembered, 0.2, STEPS), seed=3)
    outlasted = lasting(model, space, split, how(), 0.2, name, on_empty="keep_one", seed=3)
    assert len({mask.n_kept for mask in masks}) > 5
    for number, mask in enumerate(masks):
        assert torch.equal(outlasted > number + 1 - 1e-9, mask.bits)
    assert len(outlasted.unique()) == space.n_units  # no ties are left
    final = masks[-1].bits
    order = CRITERIA[name].saliency(network, space, [], initial=None, alive=masks[-1])[final].argsort()
    assert torch.equal(outlasted[final].argsort(), order)  # those that are left: as the criterion ranks them in the end


def test_model_and_random_state_stay_and_the_seed_decides(world):
    model, space, name = world
    before, split, state = copy_weights(model), make_split(), torch.get_rng_state()
    first, again, other = (
        lasting(model, space, split, how(), 0.2, name, on_empty="keep_one", seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_units_that_are_out_stay_below_all_others(world):
    model, space, name = world
    alive = space.random(0.6, generator=torch.Generator().manual_seed(0), on_empty="keep_one")
    outlasted = lasting(model, space, make_split(), how(), 0.2, name, on_empty="keep_one", alive=alive)
    assert torch.equal(outlasted == -1, ~alive.bits)
    assert (outlasted[alive.bits] >= 0).all()
