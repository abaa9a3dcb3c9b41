"""Judges: what they are asked, that stopping leaves nothing behind, and that what isn't stopped is what it was."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from masksearch.data import Split
from masksearch.scoring import Scorer, ShortTraining
from masksearch.spaces import filter_space, weight_space
from masksearch.ticket import draw_ticket
from masksearch.training import TrainSettings, evaluate, train
from masksearch.training.record import copy_weights
from masksearch.trial import Proposal

SETTINGS = TrainSettings(epochs=9, batch_size=10, lr=0.1, optimizer="adam")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_net(kind):
    torch.manual_seed(0)
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3))
    features = (nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2), nn.Flatten())
    return nn.Sequential(*features, nn.Linear(6 * 36, 10), nn.ReLU(), nn.Linear(10, 3))


def make_split(n, seed=0):
    images = torch.randn(n, 1, 8, 8, generator=generator(seed))
    return Split(images, (images[:, 0, 0, 0] > 0).long() + (images[:, 0, 4, 4] > 0).long())


def make_space(model, granularity):
    return weight_space(model) if granularity == "weight" else filter_space(model, torch.zeros(1, 1, 8, 8))


class Judge:
    """Notes what it is asked, and stops at one rung."""

    def __init__(self, stop_at=None):
        self.stop_at = stop_at
        self.asked = []

    def __call__(self, rung, score):
        self.asked.append((rung, score))
        return rung == self.stop_at


def judged(mask, judge):
    return replace(Proposal.of(mask), stop=judge)


def short_training(granularity="weight", steps=30, **settings):
    model = make_net("cnn")
    space = make_space(model, granularity)
    learned, scored = make_split(steps * 10 // settings.pop("epochs", 1)), make_split(80, seed=1)
    return model, space, ShortTraining(model, space, learned, scored, SETTINGS, steps=steps, seed=7, **settings)


@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("settings", [{}, {"epochs": 3}, {"augment": True}])
def test_rungs_change_nothing_of_a_training_that_is_not_stopped(granularity, settings):
    _, space, scorer = short_training(granularity, **settings)
    mask, judge = space.random(0.5, generator=generator(2)), Judge()
    plain = scorer(mask)
    [with_rungs] = scorer.score([judged(mask, judge)])
    assert with_rungs.value == plain.value
    assert with_rungs.exact
    assert [rung for rung, _ in judge.asked] == [1, 2, 4]
    assert with_rungs.images == plain.images + 10 + 20 + 40


@pytest.mark.parametrize(("rung", "steps"), [(1, 4), (2, 8), (4, 15)])
def test_a_stopped_training_has_no_score_and_leaves_nothing_behind(rung, steps):
    _, space, scorer = short_training()
    masks = [space.random(0.5, generator=generator(seed)) for seed in (2, 3)]
    before, state = scorer(masks[1]).value, torch.get_rng_state()
    judge = Judge(stop_at=rung)
    [stopped, after] = scorer.score([judged(masks[0], judge), Proposal.of(masks[1])])
    assert math.isnan(stopped.value)
    assert not stopped.exact
    assert stopped.images == 10 * steps + sum(80 * asked // 8 for asked, _ in judge.asked)
    assert after.value == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rung_is_the_loss_of_a_training_that_ends_there():
    class Over(Exception):  # noqa: N818
        pass

    model, space, scorer = short_training(steps=16)
    mask, judge = space.random(0.5, generator=generator(2)), Judge()
    scorer.score([judged(mask, judge)])
    ticket, steps = draw_ticket(copy.deepcopy(model), space, mask, copy_weights(model)), []

    def on_step():
        steps.append(1)
        if len(steps) == 8:
            raise Over

    with pytest.raises(Over):
        train(ticket.network, scorer._train, SETTINGS, masks=ticket.masks, until=1, seed=7, on_step=on_step)
    assert judge.asked[-1] == (4, -evaluate(ticket.network, make_split(80, seed=1)[:40]).loss)


def test_a_training_that_has_diverged_is_not_judged():
    model = make_net("mlp")
    split = make_split(80)
    wild = replace(SETTINGS, lr=1e30, optimizer="sgd")
    scorer = ShortTraining(model, weight_space(model), split, split, wild, steps=8)
    judge = Judge()
    [score] = scorer.score([judged(scorer.space.full(), judge)])
    assert math.isnan(score.value)
    assert score.exact
    assert all(math.isfinite(value) for _, value in judge.asked)


CASES = [("mlp", "weight"), ("cnn", "weight"), ("cnn", "filter")]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("objective", ["accuracy", "loss", "calibrated_loss"])
@pytest.mark.parametrize(("kind", "granularity"), CASES)
def test_images_that_grow_to_all_of_them_give_the_score_of_all(kind, granularity, objective, fast):
    model, split = make_net(kind), make_split(80)
    space = make_space(model, granularity)
    masks = [space.random(0.6, generator=generator(seed), on_empty="keep_one") for seed in range(4)]
    plain = Scorer(model, space, split, objective, batch_size=10, fast=fast)
    wanted = [plain(mask).value for mask in masks]
    scorer = Scorer(model, space, split, objective, batch_size=10, fast=fast)
    judges = [Judge() for _ in masks]
    scores = scorer.score([judged(mask, judge) for mask, judge in zip(masks, judges, strict=True)])
    rounding = 1e-6 if (kind, fast) == ("mlp", True) else 0  # without a judge it takes all of so few images at once
    assert [score.value for score in scores] == pytest.approx(wanted, abs=rounding, rel=0)
    assert {(score.exact, score.images) for score in scores} == {(True, 80)}
    for mask, judge in zip(masks, judges, strict=True):
        for rung, score in judge.asked:
            part = Scorer(model, space, split[: 10 * rung], objective, batch_size=10, fast=False)
            assert score == pytest.approx(part(mask).value, abs=1e-5)
        assert [rung for rung, _ in judge.asked] == [1, 2, 4]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("objective", ["accuracy", "calibrated_loss"])
@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_a_stopped_scoring_leaves_nothing_behind(granularity, objective, fast):
    model, split = make_net("cnn"), make_split(80)
    space = make_space(model, granularity)
    masks = [space.random(0.6, generator=generator(seed), on_empty="keep_one") for seed in range(3)]
    scorer = Scorer(model, space, split, objective, batch_size=10, fast=fast)
    wanted = [scorer(mask).value for mask in masks]
    stopped = scorer.score([judged(mask, Judge(stop_at=2)) for mask in masks])
    assert all(math.isnan(score.value) and not score.exact and score.images == 20 for score in stopped)
    assert [scorer(mask).value for mask in masks] == wanted


@pytest.mark.parametrize("objective", ["bn_recalibrated", "gradient_flow"])
def test_what_has_no_score_before_its_end_is_not_judged(objective):
    model, split = make_net("cnn"), make_split(80)
    scorer, judge = Scorer(model, weight_space(model), split, objective, batch_size=10), Judge(stop_at=1)
    [score] = scorer.score([judged(scorer.space.full(), judge)])
    assert score.exact
    assert judge.asked == []
