"""Diverged trainings end with a row; wrong input raises an input error before training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training_cases import (
    SETTINGS,
    make_model,
    make_split,
    same,
    settings,
    state,
)

from masksearch.training import train
from masksearch.utils.errors import InputError


@pytest.mark.parametrize("where", ["train", "val"])
def test_diverged_training_ends_with_a_row_without_exception(tmp_path, split, val, where):
    def loss(outputs, labels):
        value = F.cross_entropy(outputs, labels)
        spoiled = outputs.requires_grad == (where == "train") and len(outputs) > 2  # not the trial run's two images
        return value * (float("nan") if spoiled else 1)

    training = train(make_model(), split, SETTINGS, val=val, loss=loss, checkpoint=tmp_path / "c")
    assert training.diverged
    assert len(training.epochs) == 1
    assert np.isnan(getattr(training.epochs[0], f"{where}_loss"))
    assert training.best is None
    assert train(make_model(), split, SETTINGS, val=val, loss=loss, checkpoint=tmp_path / "c").diverged


def test_too_high_learning_rate_diverges(split):
    training = train(make_model(), split, settings(lr=1e30))
    assert training.diverged
    assert len(training.epochs) < 3 or not np.isfinite(training.epochs[-1].train_loss)


def broken(**parts):
    return SimpleNamespace(**(vars(make_split(40)) | parts))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"split": broken(inputs=torch.full((40, 1, 8, 8), float("nan")))}, "train: 2560 values of its images"),
        ({"split": broken(inputs=torch.full((40, 1, 8, 8), float("-inf")))}, "train: 2560 values of its images"),
        (
            {"split": broken(inputs=torch.zeros(40, 64))},
            "model: Sequential fails for 2 examples of train",
        ),
        ({"split": broken(targets=torch.zeros(39, dtype=torch.int64))}, r"train: a int64 tensor \(39,\) for 40 images"),
        (
            {"split": broken(targets=torch.zeros(40))},
            r"train: targets are torch.float32 \(40,\); classification needs",
        ),
        ({"split": broken(targets=torch.full((40,), 10))}, "train: label 10; Sequential has the classes 0 to 9"),
        ({"split": broken(targets=torch.full((40,), -1))}, "train: label -1"),
        ({"val": broken(targets=torch.full((40,), 11))}, "val: label 11"),
        ({"split": make_split(0)}, "train: 0 images"),
        (
            {"model": nn.Conv2d(1, 10, 8)},
            r"model: Conv2d returns a float32 tensor \(2, 10, 1, 1\); classif",
        ),
        ({"split": TensorDataset(torch.ones(4))}, r"train: a TensorDataset is no split; call ms.Data.from_datasets\("),
        (
            {"split": DataLoader(TensorDataset(torch.ones(4)))},
            r"train: a DataLoader is no split; call ms.Data.from_lo",
        ),
        ({"val": [1, 2]}, "val: a list is no split; pass a split of ms.Data such as data.train, or ms.Split"),
        ({"settings": settings(stop_after=2)}, "stop_after: 2; early stopping needs validation examples"),
        ({"settings": settings(distill=0.5)}, "distill: 0.5; it needs the dense network; pass teacher"),
        (
            {"settings": settings(distill=0.5), "teacher": nn.Sequential(nn.Flatten(), nn.Linear(64, 3))},
            "teacher: Sequential does not fit Sequential",
        ),
        ({"loss": lambda outputs, labels: outputs}, r"loss: returned a float32 tensor \(2, 10\)"),
        ({"loss": lambda outputs, labels: 1.0}, "loss: returned a float"),
        ({"masks": {"nope": torch.ones(1, dtype=torch.bool)}}, "masks: 'nope' is no parameter"),
        ({"masks": {"0.weight": torch.ones(2, dtype=torch.bool)}}, "masks: '0.weight' is torch.bool"),
        ({"masks": {"0.weight": torch.ones(6, 1, 3, 3)}}, "masks: '0.weight' is torch.float32"),
        ({"settings": settings(lr_schedule="plateau")}, "lr_schedule: plateau"),
        (
            {"settings": settings(label_smoothing=0.1), "loss": lambda outputs, labels: outputs.mean()},
            "label_smoothing: 0.1",
        ),
        ({"model": make_model().requires_grad_(False)}, "no parameter that requires a gradient"),
    ],
)
def test_wrong_training_input_raises_input_error_before_training(call, message):
    call = {"model": make_model(), "split": make_split(40), "settings": SETTINGS} | call
    before = state(call["model"])
    with pytest.raises(InputError, match=message) as caught:
        train(**call)
    assert "\n" not in str(caught.value)
    assert same(call["model"].state_dict(), before)
    assert call["model"].training
