"""Helpers of tests of masks that change during training: a network, and every kind of such masks."""

from types import SimpleNamespace

import torch
from torch import nn

from masksearch.criteria import select
from masksearch.schedules.dynamic_sparse_training import Regrowing
from masksearch.schedules.gradual_pruning import Gradual
from masksearch.spaces import filter_space, weight_space
from masksearch.training import TrainSettings, train

OPTIMIZERS = {"sgd": 0.05, "adam": 0.003, "adamw": 0.003, "adadelta": 1.0}
STEPS = 25  # 5 epochs of 5


def make_split(n=150, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, 10, (n,), generator=g)
    return SimpleNamespace(inputs=centres[labels] + torch.randn(n, 1, 8, 8, generator=g), targets=labels)


def make_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(96, 16),
            nn.ReLU(),
            nn.Linear(16, 10),
        )


def how(optimizer="sgd", **changes):
    return TrainSettings(
        **({"epochs": 5, "batch_size": 32, "optimizer": optimizer, "lr": OPTIMIZERS[optimizer]} | changes),
        weight_decay=1e-2,
    )


SPLIT = make_split()
SPACES = {
    "weight": weight_space(make_model()),
    "filter": filter_space(make_model(), SPLIT.inputs[:1]),
}


def chooser(model, space, name="magnitude", **more):
    batches = [(SPLIT.inputs[:32], SPLIT.targets[:32])]

    def choose(density, alive):
        return select(name, model, space, batches, density, alive=alive, on_empty="keep_one", **more)

    return choose


def gradual(granularity="weight", density=0.1, name=None, **more):
    name = name or {"weight": "magnitude", "filter": "filter_l1"}[granularity]

    def build(model):
        space = SPACES[granularity]
        return Gradual(model, space, chooser(model, space, name), density, STEPS, **more)

    return build


def regrowing(kind, scope="erk", density=0.2, **more):
    def build(model):
        space = SPACES["weight"]
        mask = space.random(density, scope, torch.Generator().manual_seed(1))
        return Regrowing(model, space, mask, kind, steps=STEPS, **more)

    return build


KINDS = {
    "gradual": gradual(interval=2),
    "gradual snip": gradual(name="snip", interval=2),
    "gradual filters": gradual("filter", 0.4, interval=2),
    "gradual filters taylor": gradual("filter", 0.4, name="taylor", interval=2),
    "set": regrowing("set", interval=2),
    "rigl": regrowing("rigl", interval=2),
}


class Watched:
    """Wraps a mask schedule, records its changes, and checks zeros before every change."""

    def __init__(self, inner):
        self.inner, self.changes = inner, {0: inner.mask}

    @property
    def masks(self):
        return self.inner.masks

    def __call__(self, step):
        self.check_zeros()
        changed = self.inner(step)
        assert changed == (self.inner.mask != list(self.changes.values())[-1])
        if changed:
            self.changes[step] = self.inner.mask
        return changed

    def check_zeros(self):
        for name, keep in self.masks.items():
            assert torch.count_nonzero(self.inner.model.get_parameter(name)[~keep]) == 0

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)
        self.changes = {0: self.inner.mask}


def trained(build, chosen=None, **more):
    model = make_model()
    watched = Watched(build(model))
    training = train(model, SPLIT, chosen or how(), remask=watched, **more)
    watched.check_zeros()
    return training, watched
