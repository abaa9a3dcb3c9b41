"""Helpers of the trainer's tests: small data, a small network with every kind of state, and interruptions."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from masksearch.training import TrainSettings, train, training_loop

OPTIMIZERS = {"sgd": 0.05, "adam": 0.003, "adamw": 0.003, "adadelta": 1.0}
SETTINGS = TrainSettings(epochs=3, batch_size=32, lr=0.05, nesterov=True, weight_decay=1e-2)


def make_split(n=150, channels=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(10, channels, 8, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, 10, (n,), generator=g)
    return SimpleNamespace(inputs=centres[labels] + torch.randn(n, channels, 8, 8, generator=g), targets=labels)


def make_model(seed=0, dropout=0.3):
    """A small convolutional network with everything that has a state or draws random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(216, 16),
            nn.ReLU(),
            nn.Linear(16, 10),
        )


def make_masks(model, density=0.3):
    g = torch.Generator().manual_seed(5)
    return {
        name: torch.rand(parameter.shape, generator=g) < density
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def without_seconds(rows):
    return [{name: value for name, value in vars(row).items() if name != "seconds"} for row in rows]


def settings(**changes):
    return TrainSettings(**(vars(SETTINGS) | changes))


def for_optimizer(optimizer, **changes):
    return settings(optimizer=optimizer, lr=OPTIMIZERS[optimizer], nesterov=optimizer == "sgd", **changes)


class InterruptionError(Exception):
    pass


def interrupted_and_resumed(path, split, val, chosen, *, after=1, monkeypatch, build=make_model, remask=None, **more):
    """Interrupt a training after an epoch and resume it; ``remask`` makes changing masks for a network."""
    monkeypatch.setattr(training_loop, "CHECKPOINT_SECONDS", 0.0)

    def run(on_epoch):
        model = build()
        changing = None if remask is None else remask(model)
        return train(model, split, chosen, val=val, checkpoint=path, on_epoch=on_epoch, remask=changing, **more)

    def stop(row):
        if row.epoch == after:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        run(stop)
    seen = []
    torch.manual_seed(1234)  # another global state than before the interruption
    training = run(lambda row: seen.append(row.epoch))
    assert seen == list(range(more.get("begin", 0) + 1, more.get("until", chosen.epochs) + 1))
    return training


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, images):
        return {"logits": self.body(images), "size": 1}
