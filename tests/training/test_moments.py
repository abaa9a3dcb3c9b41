"""Snapshots of the best validation epoch, and trainings of a part of the epochs (begin, until)."""

import pytest
from training_cases import (
    SETTINGS,
    interrupted_and_resumed,
    make_masks,
    make_model,
    make_split,
    same,
    settings,
    without_seconds,
)

from masksearch.training import train
from masksearch.training.optimisation import learning_rate
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError

BEST, BEST_OF_2, BEST_OF_5, END = (TrainingMoment.parse(text) for text in ("best", "best:2ep", "best:5ep", "end"))
NOISY = settings(epochs=6, lr=0.4)  # its accuracy goes up and down


def test_best_snapshot_has_the_weights_of_the_best_epoch_up_to_its_moment(split, val):
    training = train(make_model(), split, NOISY, val=val, snapshots=[BEST, BEST_OF_2, BEST_OF_5])
    accuracies = [row.val_accuracy for row in training.epochs]
    assert accuracies.index(max(accuracies[:2])) != accuracies.index(max(accuracies)) != 5
    for moment, epochs in ((BEST, 6), (BEST_OF_2, 2), (BEST_OF_5, 5)):
        number = 1 + accuracies.index(max(accuracies[:epochs]))
        expected = train(make_model(), split, NOISY, val=val, until=number)
        assert same(training.snapshots[moment], expected.model.state_dict())
    assert same(training.snapshots[BEST], training.best.weights)


def test_best_snapshot_of_a_stopped_training_has_the_best_weights_so_far(split, val):
    moments = [BEST, BEST_OF_5]
    training = train(make_model(), split, NOISY, val=val, snapshots=moments, on_epoch=lambda row: row.epoch == 3)
    assert training.stopped
    for moment in moments:
        assert same(training.snapshots[moment], training.best.weights)


def test_best_snapshot_without_a_finite_epoch_has_the_current_weights(split, val):
    diverged = train(make_model(), split, settings(lr=1e30), val=val, snapshots=[BEST, BEST_OF_2])
    assert diverged.diverged
    if diverged.best is None:
        assert diverged.snapshots.keys() == {BEST, BEST_OF_2}
    none = train(make_model(), split, settings(epochs=0), val=val, snapshots=[BEST])
    assert same(none.snapshots[BEST], make_model().state_dict())


def test_best_snapshots_of_resumed_training_equal_uninterrupted_training(tmp_path, monkeypatch, split, val):
    more = {"snapshots": [BEST, BEST_OF_2, BEST_OF_5, END]}
    whole = train(make_model(), split, NOISY, val=val, **more)
    for after in (1, 3, 6):
        again = interrupted_and_resumed(
            tmp_path / f"c{after}", split, val, NOISY, after=after, monkeypatch=monkeypatch, **more
        )
        assert whole.snapshots.keys() == again.snapshots.keys()
        assert all(same(whole.snapshots[moment], again.snapshots[moment]) for moment in whole.snapshots)


@pytest.mark.parametrize("schedule", ["constant", "multistep", "cosine"])
def test_two_consecutive_parts_of_a_training_equal_the_whole_training(split, val, schedule):
    """With an optimiser that remembers nothing, since its state begins anew."""
    chosen = settings(
        epochs=4, momentum=0, nesterov=False, lr_schedule=schedule, milestones=(1, 3), augment="crop_flip"
    )
    moments = [TrainingMoment.parse(text) for text in ("1ep", "13it", "2ep", "4ep")]
    whole = train(make_model(), split, chosen, val=val, snapshots=moments)
    model = make_model()
    first = train(model, split, chosen, val=val, until=2, snapshots=moments[:1])
    second = train(model, split, chosen, val=val, begin=2, snapshots=moments[1:])
    assert same(whole.model.state_dict(), model.state_dict())
    assert without_seconds(whole.epochs) == without_seconds(first.epochs + second.epochs)
    assert [row.epoch for row in second.epochs] == [3, 4]
    for moment in moments:
        assert same(whole.snapshots[moment], (first.snapshots | second.snapshots)[moment])


def test_learning_rate_stays_constant_beyond_the_schedule(split):
    chosen = settings(epochs=3, lr_schedule="cosine")
    rows = train(make_model(), split, chosen, begin=2, until=5).epochs
    assert [row.epoch for row in rows] == [3, 4, 5]
    assert {row.lr for row in rows} == {learning_rate(chosen, 2)}


def test_plateau_uses_only_losses_of_the_current_part_of_a_training(split, val):
    chosen = settings(epochs=6, lr_schedule="plateau", patience=0, lr=0.4)
    rows = train(make_model(), split, chosen, val=val, begin=3).epochs
    losses = [row.val_loss for row in rows]
    assert [row.lr for row in rows] == [learning_rate(chosen, n, losses[:n]) for n in range(3)]
    assert rows[0].lr == 0.4


def test_resumed_part_of_a_training_equals_uninterrupted_part(tmp_path, monkeypatch, split, val):
    more = {"begin": 1, "until": 5, "snapshots": [BEST, END], "masks": make_masks(make_model())}
    whole = train(make_model(), split, SETTINGS, val=val, **more)
    again = interrupted_and_resumed(tmp_path / "c", split, val, SETTINGS, after=3, monkeypatch=monkeypatch, **more)
    assert same(whole.model.state_dict(), again.model.state_dict())
    assert without_seconds(whole.epochs) == without_seconds(again.epochs)
    assert all(same(whole.snapshots[moment], again.snapshots[moment]) for moment in more["snapshots"])


def test_part_of_zero_epochs_changes_nothing(split, val):
    training = train(
        make_model(), split, SETTINGS, val=val, begin=2, until=2, snapshots=[BEST, TrainingMoment.parse("2ep")]
    )
    assert training.epochs == []
    assert all(same(weights, make_model().state_dict()) for weights in training.snapshots.values())


@pytest.mark.parametrize("change", [{"begin": 2}, {"until": 2}])
def test_checkpoint_of_another_part_of_a_training_raises_input_error(tmp_path, split, change):
    train(make_model(), split, SETTINGS, begin=1, until=3, checkpoint=tmp_path / "c")
    with pytest.raises(InputError, match=f"with {next(iter(change))} "):
        train(make_model(), split, SETTINGS, **({"begin": 1, "until": 3} | change), checkpoint=tmp_path / "c")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"snapshots": [BEST]}, "snapshots: best needs validation examples; pass val"),
        ({"snapshots": [BEST_OF_2]}, "snapshots: best:2ep needs validation examples"),
        ({"snapshots": [BEST_OF_5]}, "snapshots: best:5ep is longer than the training, which has 3ep"),
        ({"begin": 2, "snapshots": [TrainingMoment.parse("1ep")]}, "snapshots: 1ep is over before .* begins, at 2ep"),
        ({"begin": 1, "snapshots": [TrainingMoment.parse("4it")]}, "snapshots: 4it is over"),
        ({"begin": 1, "snapshots": [TrainingMoment.parse("0")]}, "snapshots: 0 is over"),
        ({"begin": 2, "snapshots": [BEST_OF_2], "val": make_split(40)}, "snapshots: best:2ep is over"),
        ({"until": 2, "snapshots": [TrainingMoment.parse("3ep")]}, "snapshots: 3ep is longer than the training"),
        ({"begin": -1}, "begin: -1; allowed is a whole number from 0"),
        ({"begin": 4}, "begin: 4; allowed is 0 to 3"),
        ({"begin": 1, "until": 0}, "begin: 1; allowed is 0 to 0"),
    ],
)
def test_wrong_snapshots_begin_or_until_raise_input_error_before_training(split, call, message):
    model = make_model()
    with pytest.raises(InputError, match=message) as caught:
        train(model, split, SETTINGS, **call)
    assert "\n" not in str(caught.value)
    assert same(model.state_dict(), make_model().state_dict())
