"""A sweep: all cells of a grid, after everything that can be checked beforehand has been checked."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masksearch.criteria import CRITERIA
from masksearch.data import Data, load_data
from masksearch.duration import Duration
from masksearch.errors import InputError
from masksearch.experiment.cells import Cell, grid
from masksearch.experiment.dense import DenseNetwork, dense_network
from masksearch.experiment.folder import is_done, locked
from masksearch.experiment.machine import describe_machine, prepare
from masksearch.experiment.run_cell import run_cell
from masksearch.experiment.settings import Settings
from masksearch.experiment.watcher import Watcher
from masksearch.files import read_json, write_json
from masksearch.models import build_model
from masksearch.seeds import torch_generator
from masksearch.spaces import NetworkSpace, filter_space, weight_space
from masksearch.training import steps_per_epoch

__all__ = ["SweepResult", "read_sweep", "run_sweep"]


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left on disk."""

    path: Path  # runs/<name>
    settings: dict[str, Any]
    machine: dict[str, str]
    cells: list[dict[str, Any]]  # metrics.json of every cell, in order of the grid
    folders: list[Path]  # theirs


def run_sweep(settings: Settings, watcher: Watcher | None = None) -> SweepResult:
    """Run a sweep, or what is left of it.

    Raises
    ------
    InputError
        Before any work, wherever it can be known then, for settings that don't fit data, network or machine, or if
        another process works in the same folder.
    """
    watcher = watcher or Watcher()
    device = prepare(settings.run)
    data = load_data(
        settings.sweep.dataset,
        settings.run.data_root,
        download=settings.run.download,
        search_images=settings.scoring.search_images,
        train_images=settings.scoring.train_images,
    )
    cells = grid(settings)
    space = _check(settings, data, cells)
    path = Path(settings.run.runs) / settings.run.name
    with locked(path):
        machine = describe_machine(device)
        plan = {"settings": settings.as_dict(), "machine": machine, "cells": [cell.folder for cell in cells]}
        write_json(path / "sweep.json", plan)
        to_do = [cell for cell in cells if not is_done(path / cell.folder)]
        watcher.sweep_begins(cells, to_do)
        dense: dict[int, DenseNetwork] = {}
        for cell in cells:
            if cell not in to_do:
                continue
            if cell.seed not in dense:
                watcher.dense_begins(cell.seed, settings.train.epochs)
                dense = {cell.seed: dense_network(settings, data, cell.seed, _moments(cells), device, watcher.epoch)}
            run_cell(cell, data, space, dense[cell.seed], path, device, watcher)
    return read_sweep(path)


def read_sweep(path: Path) -> SweepResult:
    """Read what a sweep has finished so far.

    Raises
    ------
    InputError
        If there is no sweep.
    """
    if not (path / "sweep.json").exists():
        raise InputError(f"{path} holds no sweep (no sweep.json)")
    plan = read_json(path / "sweep.json")
    done = [path / name for name in plan["cells"] if is_done(path / name)]
    cells = [read_json(folder / "metrics.json") for folder in done]
    return SweepResult(path, plan["settings"], plan["machine"], cells, done)


def _moments(cells: Iterable[Cell]) -> set[str]:
    """Moments of the dense training whose weights some cell needs."""
    cells = list(cells)
    rewinds = {cell.settings.sweep.rewind_to for cell in cells} - {"none", "random"}
    return {cell.find_at for cell in cells} | {str(Duration.parse(moment)) for moment in rewinds}


def _check(settings: Settings, data: Data, cells: list[Cell]) -> NetworkSpace:
    """Check everything that can be known before the first epoch; return the space, which is the same for all seeds."""
    steps = steps_per_epoch(len(data.train), settings.train.batch_size)
    for moment in _moments(cells):
        Duration.parse(moment).check_within(steps, settings.train.epochs, "find_at or rewind_to")
    smallest = int(data.train.labels.bincount(minlength=data.classes).min())
    sees_images = any(cell.method in CRITERIA and CRITERIA[cell.method].needs_batches for cell in cells)
    if sees_images and settings.scoring.images_per_class > smallest:
        raise InputError(
            f"images_per_class: {settings.scoring.images_per_class}; the smallest class has {smallest} training images"
        )
    model = build_model(settings.sweep.model, data, seed=0)
    space: NetworkSpace
    if settings.sweep.granularity == "filter":
        space = filter_space(model, data.test.images[:1])
    else:
        space = weight_space(model, settings.scoring.layers)
    for cell in cells:
        if settings.scoring.hold == "units":
            space.count(cell.density)
        else:
            space.random(cell.density, on_empty="allow", hold=settings.scoring.hold, generator=torch_generator(0))
    return space
