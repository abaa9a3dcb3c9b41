"""Chains of linear layers for the incremental path: plain chains are detected, and other networks are not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from path_cases import make_mlp, make_split
from torch import nn
from torch.nn.utils import prune

from masksearch.core.mask import Move
from masksearch.core.problem_and_trials import Proposal
from masksearch.scoring import Scorer
from masksearch.scoring.paths.mlp_layers import linear_chain
from masksearch.spaces import weight_space


class CustomSequential(nn.Sequential):
    """A chain with an overridden forward."""

    def forward(self, images):
        return super().forward(images) * 2


class CustomLinear(nn.Linear):
    """A linear layer with an overridden forward."""

    def forward(self, images):
        return super().forward(images).abs()


class CustomReLU(nn.ReLU):
    """An activation that depends on all neurons."""

    def forward(self, values):
        return values - values.mean(1, keepdim=True)


class CustomFlatten(nn.Flatten):
    """A flattening with an overridden forward."""

    def forward(self, images):
        return super().forward(images).flip(1)


class Residual(nn.Module):
    """x + linear(x)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 20)

    def forward(self, values):
        return values + self.layer(values)


def tied():
    first, second = nn.Linear(20, 20), nn.Linear(20, 20)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second)


def hooked(register, place):
    model = make_mlp(dtype=torch.float32)
    getattr(model if place is None else model[place], register)(
        lambda *args: args[-1] * 2 if "pre" not in register else None
    )
    return model


def repeated():
    layer = nn.Linear(20, 20)
    return nn.Sequential(nn.Flatten(), layer, nn.ReLU(), layer)


def custom_linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(20, 8), CustomLinear(8, 5))


def parametrized():
    model = make_mlp(dtype=torch.float32)
    nn.utils.parametrizations.weight_norm(model[3])
    return model


def pruned_by_torch():
    model = make_mlp(dtype=torch.float32)
    prune.l1_unstructured(model[3], "weight", 0.5)
    return model


NO_CHAINS = {
    "hook on the model": lambda: hooked("register_forward_hook", None),
    "hook on a layer": lambda: hooked("register_forward_hook", 3),
    "hook on an activation": lambda: hooked("register_forward_hook", 2),
    "pre-hook on the model": lambda: hooked("register_forward_pre_hook", None),
    "pre-hook on a layer": lambda: hooked("register_forward_pre_hook", 1),
    "subclass of Sequential": lambda: CustomSequential(nn.Flatten(), nn.Linear(20, 5)),
    "subclass of Linear": custom_linear,
    "subclass of an activation": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 8), CustomReLU(), nn.Linear(8, 5)),
    "subclass of Flatten": lambda: nn.Sequential(CustomFlatten(), nn.Linear(20, 5)),
    "residual": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 20), Residual(), nn.Linear(20, 5)),
    "BatchNorm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)),
    "LayerNorm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.LayerNorm(8), nn.Linear(8, 5)),
    "softmax": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 5), nn.Softmax(dim=1)),
    "log softmax": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 5), nn.LogSoftmax(dim=1)),
    "PReLU": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.PReLU(8), nn.Linear(8, 5)),
    "partial Flatten": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(20, 5), nn.Flatten()),
    "Flatten of everything": lambda: nn.Sequential(nn.Flatten(0), nn.Linear(20, 5)),
    "Flatten in the middle": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 5), nn.Flatten()),
    "activation first": lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(20, 5)),
    "convolution": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(12, 5)),
    "nested": lambda: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(20, 5), nn.ReLU())),
    "a layer twice": repeated,
    "a weight twice": tied,
    "parametrization": parametrized,
    "mask of torch.nn.utils.prune": pruned_by_torch,
    "no linear layer": lambda: nn.Sequential(nn.Flatten()),
    "a layer alone": lambda: nn.Linear(20, 5),
}


@pytest.mark.parametrize("make", NO_CHAINS.values(), ids=NO_CHAINS)
def test_networks_other_than_plain_chains_are_not_chains(make):
    assert linear_chain(make()) is None


def test_plain_chains_are_found_also_with_a_repeated_activation():
    chain = linear_chain(make_mlp())
    assert [(name, len(after)) for name, _, after in chain] == [("1", 1), ("3", 1), ("5", 0)]
    assert linear_chain(nn.Sequential(nn.Linear(20, 8), nn.GELU(), nn.Dropout(), nn.Linear(8, 5))) is not None


@pytest.mark.parametrize("name", ["a layer twice", "pre-hook on a layer", "subclass of an activation"])
def test_scores_of_networks_other_than_chains_equal_a_forward_pass(name):
    model = NO_CHAINS[name]().float()
    split = make_split(dtype=torch.float32)
    space = weight_space(model)
    value = Scorer(model, space, split, "loss")(space.full()).value
    assert value == pytest.approx(-F.cross_entropy(model.eval()(split.images), split.labels).item(), rel=1e-5)


@pytest.mark.parametrize("objective", ["calibrated_loss", "accuracy", "loss"])
def test_scores_of_a_network_with_an_empty_layer_have_no_rounding_errors(objective):
    """Updates of activations that become zero leave rounding errors, which a calibrated loss would scale up."""
    model = make_mlp(bias=False, dtype=torch.float32)
    space, images = weight_space(model), make_split(dtype=torch.float32)
    fast, plain = (Scorer(model, space, images, objective, fast=way) for way in (True, False))
    base = space.full()
    assert fast(base).value == pytest.approx(plain(base).value)
    assert fast.score([Proposal.moving(base, Move.nowhere())])  # the path has its activations now
    for layer in space.layers[1:]:
        cut = Proposal.moving(base, Move(np.arange(layer.start, layer.stop), np.array([], dtype=np.int64)))
        [score] = fast.score([cut])
        assert score.value == plain(cut.mask).value
        back = Move(np.array([], dtype=np.int64), np.arange(layer.start, layer.start + 30))
        again = Proposal.moving(cut.mask, back)
        assert fast.score([again])[0].value == pytest.approx(plain(again.mask).value, abs=1e-6)
