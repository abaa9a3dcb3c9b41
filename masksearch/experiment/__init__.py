"""Experiments: settings, sweeps, their runs (one method, sparsity and seed each), and results on disk."""

from masksearch.experiment.cell import Cell
from masksearch.experiment.executors import EXECUTORS
from masksearch.experiment.on_ranks import on_all_ranks, own_copy
from masksearch.experiment.recipes import SCALES, load_recipe, recipe_names, recipe_text, recipe_title
from masksearch.experiment.settings.all_settings import Settings
from masksearch.experiment.settings.sweep_settings import methods
from masksearch.experiment.sweep import run_sweep
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.experiment.sweep_grid import grid
from masksearch.experiment.sweep_result import CellsFailedError, SweepResult, read_sweep

__all__ = [
    "EXECUTORS",
    "SCALES",
    "Cell",
    "CellsFailedError",
    "Settings",
    "SweepCallback",
    "SweepResult",
    "grid",
    "load_recipe",
    "methods",
    "on_all_ranks",
    "own_copy",
    "read_sweep",
    "recipe_names",
    "recipe_text",
    "recipe_title",
    "run_sweep",
]
