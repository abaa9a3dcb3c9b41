"""Learning rates against closed forms and torch's schedulers, and checks of training settings."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, ReduceLROnPlateau

from masksearch.training import TrainSettings
from masksearch.training.optimisation import learning_rate
from masksearch.utils.errors import InputError


def dummy(lr):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_constant_learning_rate_stays_constant():
    assert {learning_rate(TrainSettings(lr=0.3), epoch) for epoch in range(10)} == {0.3}


def test_multistep_learning_rate_equals_that_of_torch():
    settings = TrainSettings(epochs=160, lr=0.1, lr_schedule="multistep", milestones=(80, 120), factor=0.1)
    rates = [learning_rate(settings, epoch) for epoch in range(160)]
    assert rates == pytest.approx([0.1] * 80 + [0.01] * 40 + [0.001] * 40)
    optimizer = dummy(0.1)
    scheduler = MultiStepLR(optimizer, [80, 120], 0.1)
    for rate in rates:
        assert rate == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_cosine_learning_rate_equals_that_of_torch():
    settings = TrainSettings(epochs=30, lr=0.2, lr_schedule="cosine")
    rates = [learning_rate(settings, epoch) for epoch in range(30)]
    assert rates[0] == 0.2
    assert rates[15] == pytest.approx(0.1)
    assert rates == pytest.approx([0.1 + 0.1 * math.cos(math.pi * epoch / 30) for epoch in range(30)])
    optimizer = dummy(0.2)
    scheduler = CosineAnnealingLR(optimizer, 30)
    for rate in rates:
        assert rate == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("schedule", ["constant", "multistep", "cosine"])
def test_learning_rate_after_the_last_epoch_stays_constant(schedule):
    settings = TrainSettings(epochs=30, lr=0.2, lr_schedule=schedule, milestones=(10, 30))
    last = learning_rate(settings, 29)
    assert {learning_rate(settings, epoch) for epoch in range(29, 60)} == {last}
    assert last > 0
    assert learning_rate(TrainSettings(epochs=0, lr=0.2, lr_schedule=schedule, milestones=(1,)), 5) == 0.2


@pytest.mark.parametrize("patience", [0, 1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_plateau_learning_rate_equals_that_of_torch(patience, seed):
    settings = TrainSettings(epochs=40, lr=0.5, lr_schedule="plateau", patience=patience, factor=0.5)
    losses = (torch.rand(40, generator=torch.Generator().manual_seed(seed)) + 3 / torch.arange(1, 41)).tolist()
    optimizer = dummy(0.5)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, eps=0)
    for epoch in range(40):
        assert learning_rate(settings, epoch, losses) == pytest.approx(optimizer.param_groups[0]["lr"])
        scheduler.step(losses[epoch])
    assert optimizer.param_groups[0]["lr"] < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": -1}, "epochs: -1"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg': did you mean 'sgd'"),
        ({"lr_schedule": "cosin"}, "unknown lr_schedule 'cosin': did you mean 'cosine'"),
        ({"precision": "float8"}, "unknown precision"),
        ({"warmup": -1}, "warmup: -1; allowed is a finite number of epochs"),
        ({"clip_norm": 0}, "clip_norm: 0; allowed is a finite number above 0, or None"),
        ({"accumulate": 0}, "accumulate: 0; allowed is 1 or more"),
        ({"ema": 1}, "ema: 1; allowed is in [0, 1)"),
        ({"stop_after": 0}, "stop_after: 0; allowed is 1 or more, or None"),
        ({"distill": 1.5}, "distill: 1.5; allowed is in [0, 1]"),
        ({"distill_temperature": 0}, "distill_temperature: 0; allowed is a finite number above 0"),
        ({"augment": "flip"}, "unknown augment"),
        ({"lr": 0}, "lr: 0; allowed is a finite number above 0"),
        ({"lr": math.nan}, "lr: nan"),
        ({"lr": math.inf}, "lr: inf"),
        ({"momentum": 1}, "momentum: 1"),
        ({"weight_decay": -1e-4}, "weight_decay: -0.0001"),
        ({"bn_l1": -1e-4}, "bn_l1: -0.0001; allowed is a finite number, 0 or more"),
        ({"bn_l1": math.inf}, "bn_l1: inf"),
        ({"factor": 1}, "factor: 1"),
        ({"patience": -1}, "patience: -1"),
        ({"label_smoothing": 1}, "label_smoothing: 1"),
        ({"milestones": (3, 3)}, "milestones: (3, 3)"),
        ({"milestones": (0,)}, "milestones: (0,)"),
        ({"lr_schedule": "multistep"}, "milestones: ()"),
        ({"nesterov": True, "momentum": 0}, "nesterov: True"),
        ({"nesterov": True, "optimizer": "adam"}, "nesterov: True"),
    ],
)
def test_wrong_training_settings_raise_input_error(changes, message):
    with pytest.raises(InputError) as caught:
        TrainSettings(**changes)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
