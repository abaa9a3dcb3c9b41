"""Masks that change while the network trains, of every kind: exact zeros, exact resumption, settings."""

import pytest
import torch
from in_training_cases import KINDS, OPTIMIZERS, SPACES, SPLIT, chooser, gradual, how, make_model, regrowing, trained

from masksearch.schedules.changing_mask import default_end, default_interval
from masksearch.schedules.dynamic_sparse_training import Regrowing
from masksearch.schedules.gradual_pruning import Gradual
from masksearch.training import train, training_loop
from masksearch.utils.errors import InputError


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_pruned_weights_are_zero_at_every_step_and_masks_change(kind, optimizer):
    training, watched = trained(KINDS[kind], how(optimizer))
    assert len(watched.changes) > 5
    assert watched.inner.mask != watched.changes[0]
    assert not training.diverged


def test_schedule_of_a_late_start_spans_the_remaining_steps(monkeypatch):
    """The end is at 75 % of the remaining steps, not of a schedule whose first 80 steps are over."""
    model = make_model()
    space = SPACES["weight"]
    late = Gradual(model, space, chooser(model, space), 0.1, 100, begin=80)
    assert (late.ramp.begin, late.ramp.end, late.ramp.interval) == (80, 95, default_interval(20))
    mask = space.random(0.2, scope="erk")
    own, whole = (Regrowing(model, space, mask, steps=20 + n, begin=n, interval=5) for n in (80, 0))
    assert (own.end, whole.end) == (95, 15)
    assert [own._due(step) for step in range(80, 100)] == [whole._due(step) for step in range(20)]
    shares = []
    monkeypatch.setattr(
        "masksearch.schedules.dynamic_sparse_training.rigl_update", lambda *given: shares.append(given[4]) or mask
    )
    for step in (0, 5, 10):
        own(80 + step)
        whole(step)
    assert shares[::2] == shares[1::2] == [0.3, pytest.approx(0.225), pytest.approx(0.075)]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", KINDS)
def test_resumed_training_with_changing_masks_equals_uninterrupted_training(tmp_path, monkeypatch, kind, optimizer):
    monkeypatch.setattr(training_loop, "CHECKPOINT_SECONDS", 0.0)

    class InterruptionError(Exception):
        pass

    def stop(row):
        if row.epoch == 2:
            raise InterruptionError

    whole, watched = trained(KINDS[kind], how(optimizer))
    with pytest.raises(InterruptionError):
        trained(KINDS[kind], how(optimizer), checkpoint=tmp_path / "c", on_epoch=stop)
    torch.manual_seed(1234)
    again, resumed = trained(KINDS[kind], how(optimizer), checkpoint=tmp_path / "c")
    assert resumed.inner.mask == watched.inner.mask
    assert min(list(resumed.changes)[1:]) > 10
    ours, theirs = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    over, finished = trained(KINDS[kind], how(optimizer), checkpoint=tmp_path / "c")
    assert finished.inner.mask == watched.inner.mask
    assert all(torch.equal(ours[name], weight) for name, weight in over.model.state_dict().items())


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (gradual(), gradual(density=0.2), "with density 0.1, and this training has 0.2"),
        (gradual(), gradual(end=20), "with end 18, and this training has 20"),
        (regrowing("rigl"), regrowing("rigl", share=0.5), "with share 0.3, and this training has 0.5"),
        (regrowing("rigl"), regrowing("set"), "with kind rigl, and this training has set"),
        (regrowing("rigl"), gradual(), "a training with masks"),
    ],
)
def test_checkpoint_of_other_settings_raises_input_error(tmp_path, first, second, message):
    for build in (first, second):
        model = make_model()
        if build is second:
            with pytest.raises(InputError, match=message):
                train(model, SPLIT, how(), remask=build(model), checkpoint=tmp_path / "c")
        else:
            train(model, SPLIT, how(), remask=build(model), checkpoint=tmp_path / "c")


@pytest.mark.parametrize("kind", KINDS)
def test_diverged_training_with_changing_masks_ends_without_exception(kind):
    model = make_model()
    assert train(model, SPLIT, how(lr=1e30), remask=KINDS[kind](model)).diverged


def test_default_interval_and_end_match_the_published_values():
    assert [default_interval(steps) for steps in (0, 39, 40, 400, 4000, 100_000)] == [1, 1, 1, 10, 100, 100]
    assert [default_end(steps) for steps in (0, 40, 1000)] == [0, 30, 750]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (gradual(density=0), r"density: 0; allowed is \(0, 1\]"),
        (gradual(density=0.6, alive=SPACES["weight"].random(0.5)), "density: 0.6; allowed is"),
        (gradual(end=26), "end: 26; allowed is 1 to 25, the steps of the training"),
        (gradual(begin=25), "end: 26"),
        (gradual(begin=9, end=9), "begin: 9; allowed is 0 to 8"),
        (gradual(interval=0), "interval: 0"),
        (gradual(alive=SPACES["filter"].full()), "mask of a filter space"),
        (regrowing("rigle"), "unknown kind of regrowing 'rigle': did you mean 'rigl'"),
        (regrowing("rigl", share=1.0), "share: 1.0; allowed is"),
        (regrowing("set", share=0), "share: 0"),
        (regrowing("set", interval=0), "interval: 0"),
    ],
)
def test_wrong_settings_of_changing_masks_raise_input_error(build, message):
    with pytest.raises(InputError, match=message) as caught:
        build(make_model())
    assert "\n" not in str(caught.value)
