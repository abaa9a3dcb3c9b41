"""Checks of a sweep's settings before any training: first without data, then with data, network and machine."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from masksearch.core.problem_and_trials import Budget, Problem
from masksearch.criteria import CRITERIA
from masksearch.data import Data
from masksearch.experiment.cell import Cell, dense_training
from masksearch.experiment.cost_feasibility import check_cost_bound
from masksearch.experiment.dense_group import moments_of, part_space
from masksearch.experiment.executors.executor_choice import check_executor
from masksearch.experiment.settings.all_settings import Settings
from masksearch.experiment.store.state_dict_file import check_is_file, read_weights_file
from masksearch.experiment.sweep_grid import grid
from masksearch.models import build_model, is_own_function
from masksearch.models.hugging_face import check_folder
from masksearch.models.torchvision_and_timm import check_timm_name, torchvision_names
from masksearch.scoring import OBJECTIVES
from masksearch.spaces import NetworkSpace
from masksearch.tasks import Task
from masksearch.training import optimizer_steps
from masksearch.training.own_loop import check_train_function
from masksearch.training.slimming import Slimming
from masksearch.training.training_loss import has_temperature
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError
from masksearch.utils.ranks import ranks
from masksearch.utils.registry import choose
from masksearch.utils.seeds import torch_generator
from masksearch.utils.user_functions import import_function


def check_parts(parts: Sequence[Settings]) -> None:
    """Raise an InputError if a sweep's parts differ in name, data or network, or have a wrong number of devices."""
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


def check_without_data(parts: Sequence[Settings]) -> None:
    """Raise an InputError for mistakes that show before data are loaded, such as unknown networks or missing files."""
    check_executor(parts[0].run.executor)
    for part in parts:
        for cell in grid(part):
            _check_control(cell)
            _check_rounds(cell)
        kind, _, name = part.sweep.model.partition(":")
        if kind == "torchvision":
            choose("torchvision classifier", name, torchvision_names())
        elif kind == "timm":
            check_timm_name(name)
        elif kind == "transformers":
            check_folder(name)
        elif is_own_function(part.sweep.model):
            import_function(part.sweep.model, "model")
        if part.sweep.has_own_data:
            import_function(part.sweep.dataset, "data set")
        if part.sweep.train_fn is not None:
            check_train_function(import_function(part.sweep.train_fn, "train_fn"))
        if part.sweep.dense != "auto":
            for seed in part.sweep.seed_range:
                check_is_file(part.sweep.dense_file(seed))


def checked_space(settings: Settings, data: Data, cells: list[Cell], dense: list[Cell]) -> NetworkSpace:
    """Return the mask space that ``settings`` give; raise an InputError for settings that don't fit data or network."""
    steps = optimizer_steps(data.train, settings.train)
    for moment in {*moments_of([*cells, *dense]), *settings.sweep.moments}:
        TrainingMoment.parse(moment).check_within(steps, settings.train.epochs, "find_at, rewind_to or save_at")
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
    for name in dict.fromkeys(criteria):
        _check_criterion(name, model, space)
    return space


def _check_criterion(name: str, model: nn.Module, space: NetworkSpace) -> None:
    """Raise the error of a criterion that cannot rank the network's units; leave out those that need examples."""
    row = CRITERIA[name]
    if row.needs_batches or row.draws:
        return
    try:
        row.saliency(model, space, [], initial=model.state_dict(), alive=None)
    except InputError:
        raise
    except Exception as error:  # of a plugin's criterion, which may raise anything
        error.add_note(
            f"criterion {name!r} got no batches; if it reads examples, set needs_batches=True in its Criterion"
        )
        raise


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
    """Raise an error for a control of a ticket that continues from weights of earlier rounds: a control has none."""
    if cell.control != "none" and cell.rewind_to in ("none", "lr") and cell.trained_before(cell.rounds):
        raise InputError(
            f"control: {cell.control}; {cell.schedule} with rewind_to {cell.rewind_to} retrains weights of its "
            f"{cell.rounds} rounds, which a control does not have; rewind to a moment, or give one round"
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
        raise InputError(
            f"rounds: {cell.rounds}; {cell.method} learns a mask of all weights in one round: give rounds 1"
        )
    if cell.searches and cell.rounds > 1 and cell.settings.sweep.layer_sparsity:
        raise InputError(
            f"rounds: {cell.rounds}; {cell.method} can't hold layer_sparsity in several rounds: give one of them"
        )
    if cell.searches and cell.rounds > 1 and cell.settings.hold != "units":
        raise InputError(
            f"hold: {cell.settings.hold}; in several rounds {cell.method} holds only units: give hold units"
        )
