"""Gradual pruning within a training: nested masks, exact densities, ranks of the current weights."""

from itertools import pairwise

import pytest
import torch
from in_training_cases import (
    KINDS,
    SPACES,
    SPLIT,
    STEPS,
    chooser,
    gradual,
    how,
    make_model,
    trained,
)

from masksearch.schedules.gradual_pruning import Gradual
from masksearch.training import train
from masksearch.utils.errors import InputError


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "gradual" in kind])
def test_gradual_masks_are_nested_and_have_the_densities_of_the_ramp(kind):
    _, watched = trained(KINDS[kind])
    remask = watched.inner
    n = remask.space.n_units
    assert remask.ramp.end == 18
    assert remask.mask.n_kept == round(remask.ramp.density * n)
    for before, after in pairwise(watched.changes.values()):
        assert not (after.bits & ~before.bits).any()
    now = remask.space.full()
    for step in range(1, STEPS + 1):
        now = watched.changes.get(step, now)
        assert now.n_kept == round(remask.ramp.at(min(step // 2 * 2, 18)) * n)


@pytest.mark.parametrize("scope", ["layerwise", "erk"])
def test_gradual_pruning_ends_with_the_layer_quotas_of_its_scope(scope):
    space = SPACES["weight"]
    model = make_model()
    remask = Gradual(model, space, chooser(model, space, scope=scope), 0.1, STEPS)
    train(model, SPLIT, how(), remask=remask)
    assert list(remask.mask.kept_per_layer().values()) == space.quotas(0.1, scope)


def test_gradual_pruning_ranks_the_current_weights():
    model = make_model()
    space = SPACES["weight"]
    seen = []

    def choose(density, alive):
        weights = space.unit_sums(dict(model.named_parameters())).clone()
        mask = chooser(model, space)(density, alive)
        seen.append((weights, mask))
        return mask

    train(model, SPLIT, how(), remask=Gradual(model, space, choose, 0.1, STEPS, interval=5))
    assert len(seen) == 4
    for (weights, mask), (later, _) in pairwise(seen):
        assert weights[mask.bits].abs().min() >= weights[~mask.bits].abs().max()
        assert not torch.equal(weights, later)


def test_gradual_pruning_keeps_the_held_share_of_parameters():
    model, space = make_model(), SPACES["filter"]
    remask = Gradual(model, space, chooser(model, space, "filter_l1", hold="params"), 0.4, STEPS)
    train(model, SPLIT, how(), remask=remask)
    allowed = 0.4 * space.kept_params(space.full())
    assert 0.6 * allowed < space.kept_params(remask.mask) <= allowed


def test_gradual_pruning_starts_from_the_given_mask_and_step():
    space = SPACES["weight"]
    alive = space.random(0.5, "layerwise", torch.Generator().manual_seed(0))
    _, watched = trained(gradual(alive=alive, begin=6, end=20, interval=4))
    assert watched.changes[0] == alive
    assert list(watched.changes) == [0, 10, 14, 18, 20]
    assert watched.changes[10].n_kept == round((0.1 + 0.4 * (10 / 14) ** 3) * space.n_units)
    assert not (watched.inner.mask.bits & ~alive.bits).any()


def test_gradual_pruning_reaches_its_density_in_a_training_after_its_ramp():
    _, watched = trained(gradual(end=8), begin=2)
    assert list(watched.changes) == [0, 11]
    assert watched.inner.mask.n_kept == round(0.1 * SPACES["weight"].n_units)


def test_finished_ramp_stays_finished_when_resumed():
    model, space = make_model(), SPACES["weight"]
    calls = []

    def choose(density, alive):
        calls.append(density)
        return chooser(model, space)(density, alive)

    first, second = (Gradual(model, space, choose, 0.1, STEPS) for _ in range(2))
    assert first(18)
    second.load_state_dict(first.state_dict())
    assert not second(19)
    assert calls == [0.1]
    assert second.mask == first.mask


def test_gradual_choice_that_regrows_raises_input_error():
    model, space = make_model(), SPACES["weight"]

    def choose(density, alive):
        return space.random(density, generator=torch.Generator().manual_seed(int(density * 1e6)))

    with pytest.raises(InputError, match="choose: kept"):
        train(model, SPLIT, how(), remask=Gradual(model, space, choose, 0.1, STEPS))
