"""Gradual pruning as a saliency: the order in which it prunes units."""

import copy

import pytest
import torch
from in_training_cases import SPACES, STEPS, how, make_model, make_split
from torch import nn

from masksearch.criteria import CRITERIA, select
from masksearch.criteria.gradual import gradual_saliency
from masksearch.data import Split
from masksearch.schedules.gradual_pruning import Gradual
from masksearch.spaces import weight_space
from masksearch.training import TrainSettings, train
from masksearch.training.record import copy_weights
from masksearch.utils.errors import InputError


@pytest.fixture(params=["weight", "filter"])
def world(request):
    model = make_model()
    name = "magnitude" if request.param == "weight" else "filter_l2"
    return model, SPACES[request.param], name


def test_top_units_of_gradual_saliency_equal_masks_of_gradual_pruning(world):
    model, space, name = world
    split, network, masks = make_split(), copy.deepcopy(model), []

    def remembered(density, alive):
        mask = select(name, network, space, [], density, alive=alive, on_empty="keep_one")
        masks.extend([mask] if mask != alive else [])
        return mask

    train(network, split, how(), remask=Gradual(network, space, remembered, 0.2, STEPS), seed=3)
    ranks = gradual_saliency(model, space, split, how(), 0.2, name, on_empty="keep_one", seed=3)
    assert len({mask.n_kept for mask in masks}) > 5
    for number, mask in enumerate(masks):
        assert torch.equal(ranks > number + 1 - 1e-9, mask.bits)
    assert len(ranks.unique()) == space.n_units  # no ties are left
    final = masks[-1].bits
    order = CRITERIA[name].saliency(network, space, [], initial=None, alive=masks[-1])[final].argsort()
    assert torch.equal(ranks[final].argsort(), order)  # kept units: ranked by the criterion at the end


def test_gradual_saliency_depends_on_the_seed_and_does_not_change_the_model(world):
    model, space, name = world
    before, split, state = copy_weights(model), make_split(), torch.get_rng_state()
    first, again, other = (
        gradual_saliency(model, space, split, how(), 0.2, name, on_empty="keep_one", seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_gradual_saliency_of_pruned_units_is_below_all_kept_units(world):
    model, space, name = world
    alive = space.random(0.6, generator=torch.Generator().manual_seed(0), on_empty="keep_one")
    ranks = gradual_saliency(model, space, make_split(), how(), 0.2, name, on_empty="keep_one", alive=alive)
    assert torch.equal(ranks == -1, ~alive.bits)
    assert (ranks[alive.bits] >= 0).all()


def test_gradual_saliency_breaks_ties_by_the_seed_and_counts_only_changes_of_masks():
    """Hundreds of signs of weights are equal; a constant density is no change."""
    model = make_model()
    space, split = weight_space(model), make_split()
    first, second = (
        gradual_saliency(model, space, split, how(lr=1e-9), 0.2, "mag_sign", initial=copy_weights(model), seed=seed)
        for seed in (1, 2)
    )
    assert len(first.unique()) == len(second.unique()) == space.n_units
    whole = gradual_saliency(model, space, split, how(), 1.0, seed=1)
    assert 0 <= whole.min() < whole.max() < 1  # all units are kept, after no change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs: 0; gradual pruning takes at least 1"),
        ({"lr": 1e30}, "the loss is NaN; a learning rate of 1e.30 may be too high"),
        ({"lr_schedule": "plateau"}, "plateau needs the validation loss"),
    ],
)
def test_wrong_training_settings_of_gradual_saliency_raise_input_error(changes, message):
    model = make_model()
    with pytest.raises(InputError, match=message):
        gradual_saliency(model, weight_space(model), make_split(), how(**changes), 0.2)


def test_gradual_saliency_with_layer_densities_raises_input_error():
    model = make_model()
    space = weight_space(model)
    with pytest.raises(InputError, match=r"density: .*; gradual pruning follows one number"):
        gradual_saliency(model, space, make_split(), how(), dict.fromkeys(space.full().densities(), 0.2))


def test_gradual_saliency_ranks_units_of_a_regression_on_named_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(5, 12), nn.Linear(12, 1)

        def forward(self, x, scale):
            return self.right(torch.relu(self.left(x))) * scale

    inputs = {"x": torch.randn(60, 5, generator=torch.Generator().manual_seed(0)), "scale": torch.ones(60, 1)}
    split = Split(inputs, inputs["x"].sum(1, keepdim=True), "regression")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Sum()
    space = weight_space(model)
    chosen = TrainSettings(epochs=3, batch_size=10, lr=0.01, accumulate=2)
    ranks = gradual_saliency(model, space, split, chosen, 0.3)
    assert ranks.shape == (72,)
    assert len(ranks.unique()) == 72


def test_gradual_saliency_accepts_a_split_pairs_or_an_iterator_as_batches():
    inputs = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    split = Split(inputs, inputs[:, :1] - inputs[:, 1:2], "regression")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    space, settings = weight_space(model), TrainSettings(epochs=1, batch_size=8)
    ranked = [
        gradual_saliency(model, space, split, settings, 0.5, "snip", batches)
        for batches in (split, [(split.inputs, split.targets)], iter([(split.inputs, split.targets)]))
    ]
    assert torch.equal(ranked[0], ranked[1])
    assert torch.equal(ranked[0], ranked[2])
