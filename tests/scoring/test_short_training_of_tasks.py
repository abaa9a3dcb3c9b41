"""Short trainings of every task: the loss of the ticket after the steps, against ``train`` and ``evaluate``."""

import copy

import pytest
from task_cases import CASES, Streamed, case, generator

from masksearch.pruning.ticket import draw_ticket
from masksearch.scoring import ShortTraining
from masksearch.spaces import weight_space
from masksearch.training import Evaluation, TrainSettings, evaluate, train

pytestmark = pytest.mark.skipif(
    "metrics" not in Evaluation.__dataclass_fields__, reason="the trainer supports only classification"
)
SETTINGS = TrainSettings(batch_size=5, lr=0.01)


@pytest.mark.parametrize("by", ["val", "train"])
@pytest.mark.parametrize("name", CASES)
def test_short_training_of_every_task_scores_the_loss_of_the_ticket(name, by):
    model, split = case(name)
    space = weight_space(model)
    mask = space.random(0.6, "layerwise", generator())
    scorer = ShortTraining(model, space, split, split, SETTINGS, by=by, steps=10, seed=3)
    score = scorer(mask)
    ticket = draw_ticket(copy.deepcopy(model), space, mask, model.state_dict())
    training = train(ticket.network, split, SETTINGS, masks=ticket.masks, until=2, seed=3)
    expected = evaluate(ticket.network, split).loss if by == "val" else training.epochs[-1].train_loss
    assert score.value == pytest.approx(-expected, rel=1e-5)
    assert scorer(mask).value == score.value
    assert scorer(space.full()).value != score.value


@pytest.mark.parametrize("name", ["classification", "regression", "language_model"])
def test_short_training_on_streamed_examples_equals_resident_examples(name):
    model, split = case(name)
    space = weight_space(model)
    mask = space.random(0.6, "layerwise", generator())
    options = {"steps": 2, "seed": 1}
    values = [ShortTraining(model, space, s, split, SETTINGS, **options)(mask).value for s in (split, Streamed(split))]
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    loader = ShortTraining(model, space, Streamed(split, loader_batch=5), split, SETTINGS, **options)
    first = ShortTraining(model, space, split[:10], split, SETTINGS, **options)
    assert loader(mask).value == pytest.approx(first(mask).value, rel=1e-6)


def test_batched_training_is_only_for_classification():
    sides = {}
    for name in ("classification", "multilabel", "regression"):
        model, split = case(name)
        space = weight_space(model)
        sides[name] = ShortTraining(model, space, split, split, SETTINGS, steps=2, side_by_side=4).side_by_side
    assert sides == {"classification": 4, "multilabel": 1, "regression": 1}
