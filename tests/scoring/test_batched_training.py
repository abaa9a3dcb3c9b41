"""Batched training: networks that are trained side by side equal networks that are trained alone."""

import copy
import math

import pytest
import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Proposal
from masksearch.data import Split
from masksearch.models import build_model
from masksearch.scoring import ShortTraining
from masksearch.scoring.short_training import short_training as module
from masksearch.scoring.short_training.batched_training import BatchedNetworks, supports_batched_training
from masksearch.spaces import filter_space, weight_space
from masksearch.training import TrainSettings
from masksearch.training.optimisation import OPTIMIZERS
from masksearch.utils.errors import InputError

IMAGES = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SPLIT = Split(IMAGES, (IMAGES[:, 0, 0, 0] > 0).long() + (IMAGES[:, 0, 4, 4] > 0).long())


class Tied(nn.Module):
    """Two layers of the same weights."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)
        self.second.weight = self.first.weight

    def forward(self, images):
        return self.last(self.second(self.first(images.flatten(1)).relu()).relu())


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 3))


def convolution():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def frozen():
    """The first layer isn't trained."""
    model = linear()
    model[1].requires_grad_(False)
    return model


def masks():
    """A parameter with the name of a method."""
    model = linear()
    model.masks = nn.Parameter(torch.ones(1))
    return model


def doubles(model):
    torch.manual_seed(0)
    return model().double()


def masks_of(space, n):
    return [space.random(0.3, generator=torch.Generator().manual_seed(seed)) for seed in range(n)]


def double_split():
    return Split(SPLIT.images.double(), SPLIT.labels)


@pytest.fixture
def trained(monkeypatch):
    """The number of networks of every training."""
    sizes = []
    plain = module.train

    def counted(network, *args, **kwargs):
        sizes.append(len(next(network.parameters())) if isinstance(network, BatchedNetworks) else 1)
        return plain(network, *args, **kwargs)

    monkeypatch.setattr(module, "train", counted)
    return sizes


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    ("model", "include"),
    [(linear, "*"), (convolution, "*"), (frozen, "*"), (masks, "*"), (Tied, "last"), (Tied, "second")],
)
def test_scores_of_batched_trainings_equal_scores_of_single_trainings(optimizer, model, include, trained):
    """In float64 but for the loss, so that only rounding of the loss differs."""
    model, split = doubles(model), double_split()
    space = weight_space(model, include=include)
    settings = TrainSettings(
        epochs=2, batch_size=10, optimizer=optimizer, lr=0.01, weight_decay=1e-3, momentum=0.9, label_smoothing=0.1
    )
    scorer = ShortTraining(model, space, split, split, settings, steps=12, side_by_side=4)
    proposals = [Proposal.of(mask) for mask in masks_of(space, 3)]
    alone = [scorer.score([proposal])[0] for proposal in proposals]
    together = scorer.score(proposals)
    assert trained == [1, 1, 1, 3]
    assert [score.value for score in together] == pytest.approx([score.value for score in alone], rel=1e-6)
    assert len({score.value for score in together}) == 3
    assert [(score.images, score.exact) for score in together] == [(score.images, score.exact) for score in alone]


def test_batched_trainings_are_in_groups_of_side_by_side(trained):
    model = linear()
    space = weight_space(model)
    scorer = ShortTraining(model, space, SPLIT, SPLIT, TrainSettings(batch_size=20), steps=2, side_by_side=4)
    assert len(scorer.score([Proposal.of(mask) for mask in masks_of(space, 9)])) == 9
    assert trained == [4, 4, 1]


def test_diverging_network_of_a_batched_training_leaves_other_scores_unchanged(trained):
    """In two epochs, as a diverged training ends after the first."""
    model = linear()
    with torch.no_grad():
        model[1].weight.view(-1)[0] = math.inf
    space = weight_space(model)
    sound, unsound = space.full().bits.clone(), space.full().bits.clone()
    sound[0] = unsound[1] = False
    settings = TrainSettings(epochs=2, batch_size=20, lr=0.01)
    scorer = ShortTraining(model, space, SPLIT, SPLIT, settings, steps=6, side_by_side=4)
    values = [score.value for score in scorer.score([Proposal.of(Mask(space, bits)) for bits in (unsound, sound)])]
    assert math.isnan(values[0])
    assert values[1] == scorer(Mask(space, sound)).value
    assert trained == [2, 1, 1, 1]


def test_labels_beyond_the_classes_raise_input_error_before_training():
    model = linear()
    wrong = Split(SPLIT.images, SPLIT.labels + 1)
    for name, splits in (("train", (wrong, SPLIT)), ("val", (SPLIT, wrong))):
        with pytest.raises(InputError, match=f"{name}: label 3; Sequential has the classes 0 to 2"):
            ShortTraining(model, weight_space(model), *splits, TrainSettings(), steps=2)


@pytest.mark.parametrize(
    ("model", "supported"),
    [
        (linear(), True),
        (Tied(), True),
        (build_model("lenet_300_100", (1, 8, 8)), True),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(0.5)), False),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Linear(20, 3)), False),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, affine=False), nn.Linear(64, 3)), False),
        (build_model("lenet5", (1, 28, 28)), True),
        (build_model("basic_cnn", (1, 28, 28)), False),
    ],
)
def test_networks_without_dropout_and_batch_norm_support_batched_training(model, supported):
    size = 28 if any(isinstance(one, nn.Conv2d) for one in model.modules()) else 8
    before = copy.deepcopy(model.state_dict())
    assert supports_batched_training(model, torch.zeros(2, 1, size, size)) is supported
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_networks_of_filter_masks_are_trained_singly(trained):
    """Every filter mask has a smaller network."""
    model = linear()
    space = filter_space(model, torch.zeros(1, 1, 8, 8))
    scorer = ShortTraining(model, space, SPLIT, SPLIT, TrainSettings(batch_size=20), steps=2, side_by_side=4)
    scorer.score([Proposal.of(mask) for mask in masks_of(space, 3)])
    assert trained == [1, 1, 1]
