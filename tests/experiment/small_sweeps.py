"""Sweeps that take seconds, and their files read back: what the tests of schedules, controls and retraining share."""

import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.data import load_data
from masksearch.experiment import Settings, SweepCallback, run_sweep
from masksearch.experiment.cell_results import CellResult
from masksearch.models import MODELS, ModelRow, build_model
from masksearch.pruning.physical import restore_state, slice_state
from masksearch.spaces import FilterSpace, filter_space, weight_space
from masksearch.utils.files import load_tensors, read_json

# The sweeps of these tests run on a GPU if asked to, and then so that they can be repeated bit for bit.
DEVICE = os.environ.get("MASKSEARCH_TEST_DEVICE", "cpu")
MLP = "lenet_300_100:0.1"
SMALL: dict[str, Any] = {
    "model": MLP,
    "methods": ["magnitude"],
    "sparsity": [0.75],
    "seeds": 1,
    "budget": 6,
    "epochs": 2,
    "lr": 0.1,
    "train_examples": 200,  # 4 steps an epoch
    "val_examples": 100,
    "search_examples": 40,
    "device": DEVICE,
    "deterministic": DEVICE != "cpu",
    "threads": 1,
    "latency_seconds": 0.0,
}
# Searches of trained networks' weights, by two saliencies, and scored by short trainings.
TRAINED = {"find_at": ["end"], "methods": ["optuna_tpe"], "sparsity": [0.9], "on_empty": "keep_one"}
MIXTURE = {"saliencies": ["magnitude", "snip@0"], "optuna": {"parametrisation": "mixture"}}
SHORT = {"objective": "short_training", "training_steps": 3, "training_lr": 0.3, "batch_size": 50}


class TinyResidual(nn.Module):
    """BatchNorm, and channels that an addition ties together."""

    def __init__(self, classes):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv3, self.norm3 = nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12)
        self.relu, self.pool, self.flatten = nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
        self.fc = nn.Linear(48, classes)

    def forward(self, images):
        first = self.relu(self.norm1(self.conv1(images)))
        both = self.relu(self.norm2(self.conv2(first)) + first)
        return self.fc(self.flatten(self.pool(self.relu(self.norm3(self.conv3(both))))))


@pytest.fixture(scope="module", autouse=True)
def small_world():
    """One thread, no time spent on slow disks, and ``tiny_residual`` among the models."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("masksearch.utils.files.os.fsync", lambda handle: None)
        patch.setitem(MODELS._rows, "tiny_residual", ModelRow(lambda shape, classes, width: TinyResidual(classes), ""))
        yield
    torch.set_num_threads(threads)


def settings_in(folder, **flat):
    return Settings().updated(SMALL | {"runs": str(folder / "runs"), "name": "sweep"} | flat, "test")


def sweep_in(folder, *, callback=None, **flat):
    """The cells of a small sweep."""
    return cells_of(run_sweep(settings_in(folder, **flat), callback))


def cells_of(result):
    return [CellFiles(folder, metrics) for folder, metrics in zip(result.folders, result.cells, strict=True)]


@cache
def small_data():
    return load_data("digits", train_examples=200, val_examples=100, search_examples=40)


@dataclass(frozen=True)
class CellFiles:
    """A finished cell, as its files have it."""

    folder: Path
    metrics: CellResult

    @property
    def label(self):
        return self.folder.name

    @cached_property
    def settings(self):
        return read_json(self.folder / "settings.json")["settings"]

    @cached_property
    def identity(self):
        return read_json(self.folder / "settings.json")["identity"]

    def build(self, weights=None):
        model = build_model(self.settings["sweep"]["model"], small_data(), seed=self.metrics.seed).eval()
        if weights is not None:
            model.load_state_dict(weights)
        return model

    @cached_property
    def space(self):
        if self.metrics.granularity == "filter":
            return filter_space(self.build(), small_data().test.images[:1])
        return weight_space(self.build())

    @property
    def places(self):
        """The folders of the rounds."""
        return [*(self.folder / f"round{r}" for r in range(1, len(self.metrics.rounds))), self.folder]

    @cached_property
    def masks(self):
        return [Mask.load(place / "mask.safetensors", self.space) for place in self.places]

    @property
    def mask(self):
        return self.masks[-1]

    def raw(self, place=None):
        return load_tensors((place or self.folder) / "retrained.safetensors")[0]

    @cached_property
    def trained(self):
        """Weights of the full network after every round."""
        return [self._whole(mask, self.raw(place)) for mask, place in zip(self.masks, self.places, strict=True)]

    def _whole(self, mask, state):
        pruned = isinstance(self.space, FilterSpace) and not mask.empty_layers()
        return restore_state(self.space, mask, state) if pruned else state

    @cached_property
    def dense(self):
        """The folder of its dense network."""
        [folder] = [
            folder
            for folder in (self.folder.parent.parent / "dense").iterdir()
            if read_json(folder / "settings.json")["identity"] == self.identity["dense"]
        ]
        return folder

    def moment(self, moment):
        """Weights of the dense network at a moment."""
        names = {"0": "init", "end": "dense", "best": "best"}
        return load_tensors(self.dense / f"{names.get(moment, f'weights_{moment}')}.safetensors")[0]

    def masked(self, weights, mask=None):
        """A state dict under the mask."""
        model = self.build(weights)
        self.space.apply(model, mask or self.mask)
        return model.state_dict()

    def drawn(self, weights, mask=None):
        """A state dict of the ticket: masked, or of the smaller network."""
        mask = mask or self.mask
        if isinstance(self.space, FilterSpace) and not mask.empty_layers():
            return slice_state(self.space, mask, weights)
        return self.masked(weights, mask)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class BegunCells(SweepCallback):
    """Callback that keeps the cells that have begun."""

    def __init__(self):
        self.begun = []

    def cell_begins(self, cell):
        self.begun.append(cell)
