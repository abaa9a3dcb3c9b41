"""A small network's space, and problems on it, for the tests of Optuna's searchers."""

import torch

from masksearch.core.problem_and_trials import Budget, Problem
from masksearch.core.space import MaskSpace

NETWORK = MaskSpace([("wide", (20, 30), 600), ("middle", (10, 20), 200), ("narrow", (5, 10), 50)])


def ranked(seed=0, space=NETWORK):
    return torch.randn(space.n_units, generator=torch.Generator().manual_seed(seed))


def on(space=NETWORK, density=0.1, **settings):
    return Problem(space, density, **{"budget": Budget(200), "seed": 0, "on_empty": "keep_one", **settings})


SALIENCIES = {"first": ranked(1), "second": ranked(2)}
