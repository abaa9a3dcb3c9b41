"""Experiments: settings, cells, sweeps, and what they leave on disk."""

from masksearch.experiment.cells import Cell, grid
from masksearch.experiment.recipes import SCALES, load_recipe, recipe_names, recipe_text
from masksearch.experiment.settings import Settings
from masksearch.experiment.sweep import SweepResult, read_sweep, run_sweep
from masksearch.experiment.sweep_settings import methods
from masksearch.experiment.watcher import Watcher

__all__ = [
    "SCALES",
    "Cell",
    "Settings",
    "SweepResult",
    "Watcher",
    "grid",
    "load_recipe",
    "methods",
    "read_sweep",
    "recipe_names",
    "recipe_text",
    "run_sweep",
]
