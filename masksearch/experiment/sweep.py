"""A sweep: checks its settings, then trains dense networks and runs all cells of its grid."""

import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from masksearch.core.protocol import Budget, Problem
from masksearch.criteria import CRITERIA
from masksearch.data import Data
from masksearch.experiment.cell import Cell, dense_training
from masksearch.experiment.cost_bounds import check_cost_bound, check_latency_bounds
from masksearch.experiment.events import SweepCallback
from masksearch.experiment.executors import plan_of, run_groups
from masksearch.experiment.group import Group, data_digest, data_key, load_part, moments_of, part_space
from masksearch.experiment.machine import describe_machine, prepare
from masksearch.experiment.result_parts import Metric
from masksearch.experiment.results import CellResult, DenseResult
from masksearch.experiment.settings.combined import Settings, SweepSettings
from masksearch.experiment.steps.dense import dense_folder
from masksearch.experiment.store.failures import failures_of
from masksearch.experiment.store.mirror import holding
from masksearch.experiment.store.run_folder import CHECKPOINTS, is_done, locked, read_plan, remove_checkpoints
from masksearch.experiment.store.weights_file import check_is_file, read_weights_file
from masksearch.experiment.sweep_grid import grid
from masksearch.models import build_model, is_own_function
from masksearch.models.torchvision_and_timm import check_timm_name, torchvision_names
from masksearch.schedules import SCHEDULES
from masksearch.scoring import OBJECTIVES
from masksearch.spaces import NetworkSpace
from masksearch.tasks import Task
from masksearch.training import optimizer_steps
from masksearch.training.data_parallel import check_sync_batchnorm
from masksearch.training.duration import Duration
from masksearch.training.own_loop import check_train_function
from masksearch.training.slimming import Slimming
from masksearch.training.training_loss import has_temperature
from masksearch.utils.errors import InputError
from masksearch.utils.files import remove_litter, write_json
from masksearch.utils.imports import import_function
from masksearch.utils.ranks import ranks
from masksearch.utils.registry import choose
from masksearch.utils.seeds import torch_generator

__all__ = ["CellsFailedError", "SweepResult", "read_sweep", "run_sweep"]


@dataclass(frozen=True)
class SweepResult:
    """Results of a sweep's finished cells and dense networks, with the sweep's settings."""

    path: Path  # runs/<name>
    settings: list[Settings]  # of its parts, in order
    machine: dict[str, str]
    cells: list[CellResult]  # those that are finished, in order of the grid
    folders: list[Path]  # of the cells
    dense: list[DenseResult]  # those that are finished
    failures: dict[str, str] = field(default_factory=dict)  # label of a failed cell -> sentence

    @property
    def metric(self) -> Metric:
        """Main metric of the sweep's task; the accuracy if no result is finished yet."""
        return next((network.metric for network in (*(cell.dense for cell in self.cells), *self.dense)), Metric())

    @property
    def sweep(self) -> SweepSettings:
        """Settings of the sweep's grid, from its first part; all parts have the same data and the same network."""
        return self.settings[0].sweep


class CellsFailedError(InputError):
    """Error at the end of a sweep in which some cells failed; all other cells are finished.

    Attributes
    ----------
    result : SweepResult
        The results of the other cells.
    """

    def __init__(self, result: SweepResult) -> None:
        self.result = result
        labels: dict[str, list[str]] = {}  # of the cells, by sentence
        for label, sentence in result.failures.items():
            labels.setdefault(sentence, []).append(label)
        shown = [f"{_some(cells)}: {sentence}" for sentence, cells in list(labels.items())[:_SHOWN]]
        shown += [f"and {len(labels) - _SHOWN} other errors"] if len(labels) > _SHOWN else []
        n, done = len(result.failures), len(result.cells)
        about = f"{n} cell{'s' * (n != 1)} failed, {done} finished; the same command tries again what failed"
        super().__init__(": ".join([about, *shown]) if len(shown) == 1 else "\n  ".join([f"{about}:", *shown]))


def _some(labels: list[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more"


_SHOWN = 5  # sentences in the message


def run_sweep(
    settings: Settings | Sequence[Settings], callback: SweepCallback | None = None, known: Container[str] = ()
) -> SweepResult:
    """Run all cells of a sweep, or the cells that an earlier run left unfinished; return all results.

    Parameters
    ----------
    settings : Settings or sequence of Settings
        Several are the parts of one sweep, whose cells are compared with one another: same name, data and network.
    known : container of str
        Names of cells that are finished elsewhere: they are left out.

    Raises
    ------
    InputError
        Before any work, wherever it can be known then, for settings that don't fit data, network or machine, or if
        another process works in the same folder.
    CellsFailedError
        An InputError at the end, if errors have ended cells; it has the result of the others.
    """
    callback = callback or SweepCallback()
    parts = [settings] if isinstance(settings, Settings) else list(settings)
    _check_parts(parts)
    device = prepare(parts[0].run)
    for part in parts:
        check_sync_batchnorm(part.train, device)
    _check_without_data(parts)
    loaded = _loaded_parts(parts)
    cells = [cell for part in loaded for cell in part.cells]
    path = parts[0].run.folder / parts[0].run.name
    with locked(path), holding(parts[0].run) as mirror:
        remove_litter(path)
        networks = {dense_folder(cell): cell.seed for part in loaded for cell in [*part.dense, *part.cells]}
        runs = [*(path / cell.folder for cell in cells if cell.folder not in known), *networks]
        mirror.synchronise(runs)
        done = {cell.folder for cell in cells if is_done(path / cell.folder)}
        to_do = [cell for cell in cells if cell.folder not in done and cell.folder not in known]
        unfinished = {cell.folder for cell in to_do}
        for one in loaded:
            check_latency_bounds([c for c in one.cells if c.folder in unfinished], one.space, one.data, device)
        waiting = list(_groups(loaded, to_do, known))
        plan = plan_of(parts, [part.data for part in loaded], len(to_do), device, idle=not waiting)
        remote = parts[0].run.is_remote  # other machines have other absolute paths
        content = {
            "settings": [part.settings.as_dict() for part in loaded],
            "given": [part.as_dict() for part in parts],
            "machine": describe_machine(device) | {"threads": str(plan.threads), "workers": str(plan.workers)},
            "cells": [cell.folder for cell in cells],
            "dense": {
                f"../dense/{folder.name}" if remote else str(folder.resolve()): seed
                for folder, seed in networks.items()
            },
        }
        if content["given"] == content["settings"]:
            del content["given"]
        _warn_of_threads(path, plan.threads)
        write_json(path / "sweep.json", content)
        mirror.publish_plan()
        for name in done:  # an interruption may have left checkpoints of finished cells
            remove_checkpoints(path / name, *CHECKPOINTS)
        callback.sweep_begins(cells, to_do)
        if waiting:
            groups = (replace(group, mirror=mirror) for group in waiting)
            run_groups(groups, path, parts[0].run, replace(plan, mirror=mirror), device, callback)
        mirror.synchronise(runs)
    result = read_sweep(path)
    if result.failures:
        raise CellsFailedError(result)
    return result


def _warn_of_threads(path: Path, threads: int) -> None:
    """Warn if a sweep goes on with another number of threads for each cell than it began with."""
    before = read_plan(path)["machine"].get("threads") if (path / "sweep.json").exists() else None
    if before not in (None, str(threads)):
        warnings.warn(
            f"threads: the sweep in {path} began with {before} for each cell and continues with {threads}, so the last "
            f"bits of results may differ; --threads {before} keeps them",
            stacklevel=3,
        )


def _groups(loaded: Sequence["_Part"], to_do: Iterable[Cell], known: Container[str]) -> Iterator[Group]:
    """Every dense network with its cells, but for those of which nothing is left to do."""
    unfinished = {cell.folder for cell in to_do}
    for part in loaded:
        sharing: dict[Path, list[Cell]] = {dense_folder(cell): [] for cell in part.dense}
        for cell in part.cells:
            sharing.setdefault(dense_folder(cell), []).append(cell)
        alone = {dense_folder(cell): cell for cell in part.dense}
        for folder, cells in sharing.items():
            waiting = [cell for cell in cells if cell.folder in unfinished]
            if cells and not waiting and (is_done(folder) or any(cell.folder in known for cell in cells)):
                continue
            yield Group(cells or [alone[folder]], waiting, part.data, part.space)


@dataclass(frozen=True)
class _Part:
    """A part of a sweep, and what its cells have in common."""

    settings: Settings
    cells: list[Cell]
    dense: list[Cell]  # stand for the dense networks of all seeds: of no method
    data: Data
    space: NetworkSpace


def _loaded_parts(parts: Sequence[Settings]) -> list[_Part]:
    """The parts, checked."""
    data: dict[tuple[object, ...], Data] = {}
    loaded = []
    for part in parts:
        key = data_key(part)
        if key not in data:
            data[key] = load_part(part)
        used = _for_task(part, data[key].task)
        cells = grid(used)
        dense = [Cell(used, "", 0.0, "0", seed, name) for seed, name in product(used.sweep.seed_range, _plain(used))]
        digest = partial(replace, data_digest=data_digest(used, data[key]))
        cells, dense = (list(map(digest, some)) for some in (cells, dense))
        space = _check(used, data[key], cells, dense)
        loaded.append(_Part(used, cells, dense, data[key], space))
    return loaded


def _for_task(part: Settings, task: Task) -> Settings:
    """Return the settings, with the loss as objective where the usual objective is not defined for the task."""
    usual = SweepSettings().objective
    if part.sweep.objective != usual or OBJECTIVES[usual].fits(task):
        return part
    return part.with_changes({"sweep": {"objective": "loss"}})


def _plain(part: Settings) -> list[str]:
    """Schedules, of one round each, that stand for the dense trainings that a part has beside those of its cells."""
    asked = part.schedules.schedule if part.schedules.dense_alone else ()
    return list(dict.fromkeys(name if SCHEDULES[name].bn_l1 else "one_shot" for name in asked)) or ["one_shot"]


def read_sweep(path: Path) -> SweepResult:
    """Read the results of a sweep's finished cells and dense networks from its folder.

    Raises
    ------
    InputError
        If there is no sweep, or another version has written it.
    """
    if not (path / "sweep.json").exists():
        raise InputError(f"{path} holds no sweep (no sweep.json)")
    plan = read_plan(path)
    done = [path / name for name in plan["cells"] if is_done(path / name)]
    networks = [folder for folder in map(Path, plan["dense"]) if is_done(folder)]
    return SweepResult(
        path,
        [Settings.from_dict(part, f"{path / 'sweep.json'}") for part in plan["settings"]],
        plan["machine"],
        list(_sharing(map(CellResult.load, done))),
        done,
        list(map(DenseResult.load, networks)),
        failures_of(path / name for name in plan["cells"]),
    )


def _sharing(cells: Iterable[CellResult]) -> Iterator[CellResult]:
    """Yield results whose equal parts are one object: the settings of a method, and the dense network of a seed."""
    settings: dict[str, Mapping[str, Any]] = {}
    networks: dict[int, DenseResult] = {}
    for cell in cells:
        own, dense = settings.setdefault(cell.method, cell.settings), networks.setdefault(cell.seed, cell.dense)
        yield replace(
            cell,
            settings=own if own == cell.settings else cell.settings,
            dense=dense if dense == cell.dense else cell.dense,
        )


def _check_parts(parts: Sequence[Settings]) -> None:
    first = parts[0]
    for part in parts:
        if part.sweep.devices != ranks().size:
            raise InputError(
                f"devices: {part.sweep.devices}; torchrun sets it, and started {ranks().size} processes: "
                "torchrun --nproc-per-node N run_search.py"
            )
    for part in parts[1:]:
        for name, one, other in (
            ("name", first.run.name, part.run.name),
            ("dataset", first.sweep.dataset, part.sweep.dataset),
            ("model", first.sweep.model, part.sweep.model),
        ):
            if one != other:
                raise InputError(f"{name}: {one} and {other} in parts of one sweep; they must be the same")


def _check_without_data(parts: Sequence[Settings]) -> None:
    """Check what needs no data, before it is read: names of networks, functions, files of dense networks, cells."""
    for part in parts:
        for cell in grid(part):
            _check_control(cell)
            _check_rounds(cell)
        kind, _, name = part.sweep.model.partition(":")
        if kind == "torchvision":
            choose("torchvision classifier", name, torchvision_names())
        elif kind == "timm":
            check_timm_name(name)
        elif is_own_function(part.sweep.model):
            import_function(part.sweep.model, "model")
        if part.sweep.has_own_data:
            import_function(part.sweep.dataset, "data set")
        if part.sweep.train_fn is not None:
            check_train_function(import_function(part.sweep.train_fn, "train_fn"))
        if part.sweep.dense != "auto":
            for seed in part.sweep.seed_range:
                check_is_file(part.sweep.dense_file(seed))


def _check(settings: Settings, data: Data, cells: list[Cell], dense: list[Cell]) -> NetworkSpace:
    """Check everything that can be known before the first epoch; return the space, which is the same for all seeds."""
    steps = optimizer_steps(data.train, settings.train)
    for moment in {*moments_of([*cells, *dense]), *settings.sweep.moments}:
        Duration.parse(moment).check_within(steps, settings.train.epochs, "find_at, rewind_to or save_at")
    _check_objectives(settings, data.task)
    _check_temperatures(settings, data.task)
    criteria = [cell.method for cell in cells if cell.method in CRITERIA]
    if any(cell.searches for cell in cells):
        criteria += [source.name for source in settings.search.sources]
    if any(CRITERIA[name].needs_batches for name in criteria) and data.task.classifies and data.train.resident:
        smallest = int(data.train.targets.bincount(minlength=data.classes or 0).min())
        if settings.scoring.examples_per_class > smallest:
            raise InputError(
                f"examples_per_class: {settings.scoring.examples_per_class}; "
                f"the smallest class has {smallest} training examples"
            )
    model = build_model(settings.sweep.model, data, seed=0)
    if settings.sweep.dense != "auto":
        for seed in settings.sweep.seed_range:
            read_weights_file(settings.sweep.dense_file(seed), model)
    space = part_space(settings, data)
    for cell in cells:
        check_cost_bound(cell, space)
        _check_density(cell, space)
    for cell in {cell.method: cell for cell in cells if cell.searches}.values():
        _check_searcher(cell, space)
    for schedule in dict.fromkeys(cell.schedule for cell in [*cells, *dense]):
        Slimming(model, dense_training(settings, schedule).bn_l1)  # raises if there is nothing to slim
    for row in map(CRITERIA.__getitem__, dict.fromkeys(criteria)):
        if not row.needs_batches and not row.draws:
            row.saliency(model, space, [], initial=model.state_dict(), alive=None)  # raises where it knows no value
    return space


def _check_objectives(settings: Settings, task: Task) -> None:
    """Raise an error if an objective is not defined for the task of the data."""
    for setting, name in (("objective", settings.sweep.objective), ("rescore_by", settings.search.rescore_by)):
        if name is not None and not OBJECTIVES[name].fits(task):
            fitting = ", ".join(own for own, row in OBJECTIVES.items() if row.fits(task))
            raise InputError(f"{setting}: {name}; it is for classification; allowed for {task.name} are {fitting}")


def _check_temperatures(settings: Settings, task: Task) -> None:
    """Raise an error if temperatures of distillation are compared for a task that has none."""
    temperatures = settings.schedules.retrain_temperature
    if temperatures and not has_temperature(task):
        given = " ".join(f"{value:g}" for value in temperatures)
        raise InputError(f"retrain_temperature: {given}; distillation of {task.name} has no temperature: leave it out")


def _check_control(cell: Cell) -> None:
    """A control starts where its ticket does, but it has no rounds of its own."""
    if cell.control != "none" and cell.rewind_to in ("none", "lr") and cell.trained_before(cell.rounds):
        raise InputError(
            f"control: {cell.control}; {cell.schedule} with rewind_to {cell.rewind_to} retrains the weights that its "
            f"{cell.rounds} rounds have trained, and a control has no rounds; rewind to a moment, or give one round"
        )


def _check_searcher(cell: Cell, space: NetworkSpace) -> None:
    """Start a searcher that may refuse its problem, with stand-ins for what isn't known yet; open the storage."""
    searcher, amount, settings = cell.searcher().unplaced(), cell.amounts(space)[-1].across("global"), cell.settings
    if amount.per_layer is None and not searcher.refuses_problems:
        return  # starting takes time
    problem = Problem(
        space,
        amount.at(1.0) if cell.front else amount,
        Budget(settings.sweep.budget, settings.scoring.seconds),
        saliencies=dict.fromkeys(settings.search.saliencies, torch.arange(space.n_units)),
        cost=settings.hold if cell.front else None,
    )
    try:
        searcher.start(problem)
    except InputError as error:
        raise InputError(f"{cell.method}: {error}") from None
    if searcher.settings_group == "optuna" and settings.optuna.storage is not None:
        from masksearch.searchers.optuna.study_storage import opened  # importing Optuna takes its time

        opened(settings.optuna.storage)


def _check_density(cell: Cell, space: NetworkSpace) -> None:
    amount = cell.amounts(space)[-1]
    if cell.front == "latency":
        pass  # known once it is measured
    elif amount.hold == "units":
        space.count(amount)
    else:
        space.random(
            replace(amount, scope="global", on_empty="keep_one" if cell.front else "allow"),
            generator=torch_generator(0),
        )


def _check_rounds(cell: Cell) -> None:
    """Raise an error for a method that finds no mask within the units that earlier rounds have kept."""
    if cell.rounds > 1 and cell.learns:
        raise InputError(f"rounds: {cell.rounds}; {cell.method} learns a mask of all weights in one round")
    if cell.searches and cell.rounds > 1 and cell.settings.sweep.layer_sparsity:
        raise InputError(f"rounds: {cell.rounds}; {cell.method} searches one density in later rounds, not one a layer")
    if cell.searches and cell.rounds > 1 and cell.settings.hold != "units":
        raise InputError(f"hold: {cell.settings.hold}; in rounds {cell.method} searches densities in units")
