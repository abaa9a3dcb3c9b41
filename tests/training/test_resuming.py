"""A resumed training has exactly the weights of an uninterrupted training, or raises an input error."""

import itertools

import pytest
import torch
from torch import nn
from training_cases import (
    OPTIMIZERS,
    SETTINGS,
    for_optimizer,
    interrupted_and_resumed,
    make_masks,
    make_model,
    make_split,
    same,
    settings,
    state,
    without_seconds,
)

from masksearch.training import train
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tree, save_tree

SCHEDULES = ["constant", "multistep", "plateau", "cosine"]


@pytest.mark.parametrize(("optimizer", "schedule"), [*itertools.product(OPTIMIZERS, SCHEDULES)])
def test_resumed_training_equals_uninterrupted_training(tmp_path, monkeypatch, split, val, optimizer, schedule):
    chosen = for_optimizer(optimizer, lr_schedule=schedule, milestones=(1,), patience=0, augment="crop_flip")
    more = {
        "masks": make_masks(make_model()),
        "snapshots": [TrainingMoment.parse(text) for text in ("0", "4it", "8it", "end")],
    }
    whole = train(make_model(), split, chosen, val=val, **more)
    again = interrupted_and_resumed(tmp_path / "c", split, val, chosen, monkeypatch=monkeypatch, **more)
    assert same(whole.model.state_dict(), again.model.state_dict())
    assert without_seconds(whole.epochs) == without_seconds(again.epochs)
    assert whole.snapshots.keys() == again.snapshots.keys() == set(more["snapshots"])
    assert all(same(whole.snapshots[moment], again.snapshots[moment]) for moment in whole.snapshots)
    assert whole.best.epoch == again.best.epoch
    assert same(whole.best.weights, again.best.weights)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_resumed_channels_last_training_equals_uninterrupted_training(tmp_path, monkeypatch, val, optimizer):
    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(64, 10)).to(
            memory_format=torch.channels_last
        )

    start = state(build())

    def built():
        model = build()
        model.load_state_dict(start)
        return model

    coloured = make_split(channels=3)
    masks = make_masks(build())
    whole = train(built(), coloured, for_optimizer(optimizer), masks=masks)
    again = interrupted_and_resumed(
        tmp_path / "c", coloured, None, for_optimizer(optimizer), monkeypatch=monkeypatch, build=built, masks=masks
    )
    assert same(whole.model.state_dict(), again.model.state_dict())


def test_finished_checkpoint_is_returned_without_training(tmp_path, split, val):
    first = train(make_model(), split, SETTINGS, val=val, checkpoint=tmp_path / "c")
    seen = []
    again = train(make_model(), split, SETTINGS, val=val, checkpoint=tmp_path / "c", on_epoch=seen.append)
    assert first.epochs == again.epochs == seen
    assert same(first.model.state_dict(), again.model.state_dict())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": settings(lr=0.01)}, "lr 0.05, and this training has 0.01"),
        ({"seed": 1}, "seed 0"),
        ({"masks": {"0.weight": torch.ones(6, 1, 3, 3, dtype=torch.bool)}}, "masks"),
        ({"model": make_model(seed=3)}, "starting weights"),
        ({"snapshots": [TrainingMoment.parse("1ep")]}, "snapshots"),
        ({"augment": True}, "augment False"),
    ],
)
def test_checkpoint_of_another_training_raises_input_error(tmp_path, split, change, named):
    call = {"model": make_model(), "split": split, "settings": SETTINGS, "checkpoint": tmp_path / "c"}
    train(**call)
    with pytest.raises(InputError, match=named):
        train(**(call | {"model": make_model()} | change))


def test_unreadable_checkpoint_raises_input_error(tmp_path, split):
    (tmp_path / "c").write_text("hello")
    with pytest.raises(InputError, match="c can't be read"):
        train(make_model(), split, SETTINGS, checkpoint=tmp_path / "c")


def test_training_stopped_by_on_epoch_stays_stopped(tmp_path, split):
    end = TrainingMoment.parse("end")
    stopped = train(
        make_model(), split, SETTINGS, checkpoint=tmp_path / "c", snapshots=[end], on_epoch=lambda row: row.epoch == 2
    )
    assert stopped.stopped
    assert len(stopped.epochs) == 2
    again = train(make_model(), split, SETTINGS, checkpoint=tmp_path / "c", snapshots=[end])
    assert again.stopped
    assert len(again.epochs) == 2
    assert same(again.model.state_dict(), stopped.snapshots[end])


def test_optimizer_step_state_has_a_fixed_form_in_checkpoints(tmp_path, split):
    path = tmp_path / "c"
    train(make_model(), split, settings(ema=0.7), checkpoint=path)
    step = load_tree(path)["step"]
    assert list(step) == ["average", "average steps", "scaler"]
    assert step["average"].keys() == make_model().state_dict().keys()
    assert step["average steps"] > 0
    assert step["scaler"] is None


def test_checkpoint_without_optimizer_step_state_is_read(tmp_path, split):
    path = tmp_path / "c"
    first = train(make_model(), split, SETTINGS, checkpoint=path)
    save_tree(path, {name: value for name, value in load_tree(path).items() if name != "step"})
    again = train(make_model(), split, SETTINGS, checkpoint=path)
    assert again.epochs == first.epochs
    assert same(again.model.state_dict(), first.model.state_dict())


@pytest.mark.parametrize("change", [{"average": None}, {"average": {}}, "nothing"])
def test_checkpoint_with_damaged_optimizer_step_state_raises_input_error(tmp_path, split, change):
    path = tmp_path / "c"
    train(make_model(), split, settings(ema=0.7), checkpoint=path)
    tree = load_tree(path)
    tree["step"] = {"scaler": None} if change == "nothing" else tree["step"] | change
    save_tree(path, tree)
    with pytest.raises(InputError, match="c is damaged or was changed"):
        train(make_model(), split, settings(ema=0.7), checkpoint=path)
