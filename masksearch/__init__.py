"""masksearch: pruning masks of neural networks, found by black-box search and compared fairly with every criterion.

Importing the package loads neither its modules nor PyTorch: each public name loads its module at first use (PEP 562).
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masksearch import analysis, cost, criteria, data, models, schedules, searchers, supermasks, tasks
    from masksearch.compression import Compressed, compress, find_mask
    from masksearch.core.density_allocation import Amount
    from masksearch.core.history import History
    from masksearch.core.mask import Mask, Move
    from masksearch.core.problem_and_trials import Budget, Problem, Proposal, Score, Trial
    from masksearch.core.space import MaskSpace
    from masksearch.criteria.gradual import gradual_saliency
    from masksearch.data import Data, Split, load_data
    from masksearch.models import build_model
    from masksearch.plugin import load_plugins
    from masksearch.pruning import export
    from masksearch.pruning import sparse_inference as deploy
    from masksearch.pruning.energy_after_repair import RepairEnergy, repair_energy
    from masksearch.pruning.nm_permutation import PermutedNetwork, permute_channels
    from masksearch.pruning.one_shot import OneShot, one_shot, outlier_densities
    from masksearch.pruning.physical import load_pruned, prune, restore_state, save_pruned, slice_state
    from masksearch.pruning.reconstruction import reconstruct
    from masksearch.pruning.ticket import draw_ticket
    from masksearch.schedules.rounds import run_rounds
    from masksearch.scoring import LatencyShare, ParallelScorer, Scorer, ShortTraining
    from masksearch.searching.search_function import search
    from masksearch.spaces import (
        BlockSpace,
        FilterSpace,
        NMSpace,
        UnionSpace,
        WeightSpace,
        block_space,
        filter_space,
        nm_space,
        union_space,
        weight_space,
    )
    from masksearch.tasks import Task
    from masksearch.training import TrainSettings, evaluate, keep_mask, train
    from masksearch.utils.errors import InputError
    from masksearch.utils.ranks import distributed

    __version__: str

__all__ = [
    "Amount",
    "BlockSpace",
    "Budget",
    "Compressed",
    "Data",
    "FilterSpace",
    "History",
    "InputError",
    "LatencyShare",
    "Mask",
    "MaskSpace",
    "Move",
    "NMSpace",
    "OneShot",
    "ParallelScorer",
    "PermutedNetwork",
    "Problem",
    "Proposal",
    "RepairEnergy",
    "Score",
    "Scorer",
    "ShortTraining",
    "Split",
    "Task",
    "TrainSettings",
    "Trial",
    "UnionSpace",
    "WeightSpace",
    "analysis",
    "block_space",
    "build_model",
    "compress",
    "cost",
    "criteria",
    "data",
    "deploy",
    "distributed",
    "draw_ticket",
    "evaluate",
    "export",
    "filter_space",
    "find_mask",
    "gradual_saliency",
    "keep_mask",
    "load_data",
    "load_plugins",
    "load_pruned",
    "models",
    "nm_space",
    "one_shot",
    "outlier_densities",
    "permute_channels",
    "prune",
    "reconstruct",
    "repair_energy",
    "restore_state",
    "run_rounds",
    "save_pruned",
    "schedules",
    "search",
    "searchers",
    "slice_state",
    "supermasks",
    "tasks",
    "train",
    "union_space",
    "weight_space",
]

_MODULES = {
    "analysis": "analysis",
    "cost": "cost",
    "criteria": "criteria",
    "data": "data",
    "deploy": "pruning.sparse_inference",
    "export": "pruning.export",
    "models": "models",
    "schedules": "schedules",
    "searchers": "searchers",
    "supermasks": "supermasks",
    "tasks": "tasks",
}
"""Public name of a module -> its path in the package."""

_HOMES = {
    "compression": ("Compressed", "compress", "find_mask"),
    "core.density_allocation": ("Amount",),
    "core.history": ("History",),
    "core.mask": ("Mask", "Move"),
    "core.problem_and_trials": ("Budget", "Problem", "Proposal", "Score", "Trial"),
    "core.space": ("MaskSpace",),
    "criteria.gradual": ("gradual_saliency",),
    "data": ("Data", "Split", "load_data"),
    "models": ("build_model",),
    "plugin": ("load_plugins",),
    "pruning.energy_after_repair": ("RepairEnergy", "repair_energy"),
    "pruning.nm_permutation": ("PermutedNetwork", "permute_channels"),
    "pruning.one_shot": ("OneShot", "one_shot", "outlier_densities"),
    "pruning.physical": ("load_pruned", "prune", "restore_state", "save_pruned", "slice_state"),
    "pruning.reconstruction": ("reconstruct",),
    "pruning.ticket": ("draw_ticket",),
    "schedules.rounds": ("run_rounds",),
    "scoring": ("LatencyShare", "ParallelScorer", "Scorer", "ShortTraining"),
    "searching.search_function": ("search",),
    "spaces": (
        "BlockSpace",
        "FilterSpace",
        "NMSpace",
        "UnionSpace",
        "WeightSpace",
        "block_space",
        "filter_space",
        "nm_space",
        "union_space",
        "weight_space",
    ),
    "tasks": ("Task",),
    "training": ("TrainSettings", "evaluate", "keep_mask", "train"),
    "utils.errors": ("InputError",),
    "utils.ranks": ("distributed",),
}
"""Path of a module -> the public names that the package takes from it."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Return the object of a public name, after loading its module."""
    value: Any
    if name == "__version__":
        value = metadata.version("masksearch")
    elif name in _MODULES:
        value = import_module(f"masksearch.{_MODULES[name]}")
    elif name in _HOME_OF:
        value = getattr(import_module(f"masksearch.{_HOME_OF[name]}"), name)
    else:
        raise AttributeError(f"module 'masksearch' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return all public names, whether their modules are loaded or not."""
    return sorted({*globals(), *__all__, "__version__"})
