"""Scores after a short training: loss on val or train after a number of steps."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from path_cases import generator
from torch import nn

from masksearch.core.problem_and_trials import Proposal
from masksearch.data import Split
from masksearch.pruning.ticket import draw_ticket
from masksearch.scoring import Scorer, ShortTraining
from masksearch.spaces import filter_space, weight_space
from masksearch.training import TrainSettings, evaluate, train
from masksearch.training.record import copy_weights
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import torch_generator

SETTINGS = TrainSettings(epochs=9, batch_size=10, lr=0.1, lr_schedule="multistep", milestones=(1,))


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 10), nn.ReLU()),
        nn.Linear(10, 3),
    )


def make_split(n, seed=0):
    images = torch.randn(n, 1, 8, 8, generator=generator(seed))
    return Split(images, (images[:, 0, 0, 0] > 0).long() + (images[:, 0, 4, 4] > 0).long())


def spaces(model):
    return {"weight": weight_space(model), "filter": filter_space(model, torch.zeros(1, 1, 8, 8))}


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_short_training_score_is_the_val_loss_of_the_ticket_after_the_steps(granularity):
    """Whole epochs keep the order of images, so that ``train`` of as many epochs gives the same network."""
    model, learned, scored = make_net(), make_split(60), make_split(40, seed=1)
    space = spaces(model)[granularity]
    mask = space.random(0.5, generator=generator(2))
    scorer = ShortTraining(model, space, learned, scored, SETTINGS, steps=12, seed=7)
    ticket = draw_ticket(copy.deepcopy(model), space, mask, copy_weights(model))
    train(ticket.network, learned, SETTINGS, masks=ticket.masks, until=2, seed=7)
    score = scorer(mask)
    assert score.value == -evaluate(ticket.network, scored).loss
    assert (score.exact, score.images) == (True, 2 * 60 + 40)


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_training_loss_is_the_mean_loss_of_the_last_epochs_batches_before_each_step(granularity):
    """Against a plain loop: SGD on the trainer's batches, without a second pass over any image."""
    model, learned = make_net(), make_split(60)
    space = spaces(model)[granularity]
    mask = space.random(0.5, generator=generator(2))
    plain = TrainSettings(epochs=9, batch_size=10, lr=0.1, lr_schedule="constant", momentum=0.0, weight_decay=0.0)
    scorer = ShortTraining(model, space, learned, make_split(40, seed=1), plain, by="train", steps=12, seed=7)
    network = draw_ticket(copy.deepcopy(model), space, mask, copy_weights(model)).network
    keep = space.parameter_masks(mask) if granularity == "weight" else {}
    losses = []
    for epoch in range(2):
        order = torch.randperm(60, generator=torch_generator(7, "epoch", epoch, "order"))
        for batch in order.split(10):
            loss = nn.functional.cross_entropy(network(learned.images[batch]), learned.labels[batch])
            losses.append(loss.item())
            network.zero_grad()
            loss.backward()
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    parameter -= 0.1 * parameter.grad
                    if name in keep:
                        parameter *= keep[name]
    score = scorer(mask)
    assert score.value == pytest.approx(-sum(losses[6:]) / 6, rel=1e-5)
    assert (score.exact, score.images) == (True, 2 * 60)  # no image of val counts


def test_training_loss_equals_train_loss_of_the_full_training_at_that_epoch():
    model, learned = make_net(), make_split(60)
    space = weight_space(model)
    masks = [space.random(density, generator=generator(3)) for density in (0.1, 0.3, 0.9)]
    settings = TrainSettings(epochs=9, batch_size=10, lr=0.1, lr_schedule="cosine")
    scorer = ShortTraining(model, space, learned, learned, settings, by="train", steps=18, seed=7)
    scores = scorer.score([Proposal.of(mask) for mask in masks])
    for mask, score in zip(masks, scores, strict=True):
        ticket = draw_ticket(copy.deepcopy(model), space, mask, copy_weights(model))
        rows = train(ticket.network, learned, settings, masks=ticket.masks, seed=7).epochs
        assert (score.value, score.exact) == (-rows[2].train_loss, True)
    assert scores[0].value < scores[1].value < scores[2].value


@pytest.mark.parametrize(("steps", "epochs", "images"), [(3, 1, 30), (6, 1, 60), (9, 2, 45), (13, 3, 43)])
def test_steps_of_short_training_are_spread_over_whole_epochs(steps, epochs, images):
    model, split = make_net(), make_split(60)
    scorer = ShortTraining(model, weight_space(model), split, split, SETTINGS, steps=steps)
    assert scorer(scorer.space.full()).images == epochs * images + 60


def test_batch_size_above_the_number_of_images_gives_a_step_per_epoch():
    model, split = make_net(), make_split(30)
    large = replace(SETTINGS, batch_size=50)
    for steps in (1, 2):
        scorer = ShortTraining(model, weight_space(model), split, split, large, steps=steps)
        assert scorer(scorer.space.full()).images == steps * 30 + 30


def test_short_training_scores_depend_only_on_the_mask_and_do_not_change_the_model():
    model, split = make_net(), make_split(60)
    before = copy_weights(model)
    space = weight_space(model)
    masks = [space.random(0.3, generator=generator(seed)) for seed in range(3)]
    scorer = ShortTraining(model, space, split, split, SETTINGS, steps=5)
    values = [scorer(mask).value for mask in masks]
    again = ShortTraining(model, space, split, split, SETTINGS, steps=5)
    assert [again(mask).value for mask in reversed(masks)] == values[::-1]
    assert len(set(values)) == 3
    state = torch.get_rng_state()
    again(space.random(0.05, generator=generator(9)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_more_training_steps_give_higher_scores():
    model, split = make_net(), make_split(300)
    space = weight_space(model)
    mask = space.random(0.5, generator=generator())
    untrained = Scorer(model, space, split, "loss")(mask).value
    few, many = (ShortTraining(model, space, split, split, SETTINGS, steps=n)(mask).value for n in (3, 30))
    assert untrained < few < many


@pytest.mark.parametrize("by", ["val", "train"])
def test_diverging_short_training_scores_nan(by):
    model, split = make_net(), make_split(60)
    space = weight_space(model)
    wild = TrainSettings(epochs=1, batch_size=10, lr=1e30)
    assert math.isnan(ShortTraining(model, space, split, split, wild, by=by, steps=6)(space.full()).value)


def test_zero_steps_and_training_objectives_of_scorer_raise_input_error():
    model, split = make_net(), make_split(60)
    space = weight_space(model)
    with pytest.raises(InputError, match="steps: 0; allowed is a whole number from 1"):
        ShortTraining(model, space, split, split, SETTINGS, steps=0)
    for objective in ("short_training", "training_loss"):
        with pytest.raises(InputError, match=f"objective: {objective} trains every ticket"):
            Scorer(model, space, split, objective)
