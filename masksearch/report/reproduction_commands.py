"""Command lines that run a whole sweep, or one row of its results, again."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from masksearch.analysis import Group
from masksearch.experiment import Cell, Settings, SweepResult, grid
from masksearch.experiment.settings.all_settings import SweepSettings
from masksearch.experiment.settings.catalogue import flag_keys, settings_by_key
from masksearch.experiment.settings.search_settings import USUAL_START
from masksearch.experiment.settings.text_values import value_text


def sweep_command(result: SweepResult) -> list[str]:
    """Return the words of the command line that runs a sweep again; empty list for a sweep of several recipe parts."""
    return ["masksearch", "run", *flags_of(result.settings[0])] if len(result.settings) == 1 else []


def row_commands(result: SweepResult, groups: Sequence[Group]) -> list[str]:
    """Return, for each row of a sweep's results table, the command line that repeats its run; "" if there is none.

    The commands name other runs, so that the folder of the sweep does not change. Dense networks are found again.
    """
    cells: dict[str, list[Cell]] = {}  # by name: the hash in a folder's name depends on files that may be missing
    for cell in (cell for part in result.settings for cell in grid(part)):
        cells.setdefault(cell.name, []).append(cell)
    labels = [result.folders[group.places[0]].name.rpartition("_")[0] for group in groups]
    found = [one[0] if len(one := cells.get(label, [])) == 1 else None for label in labels]
    runs = [cell and ["masksearch", "run", *flags_of(_alone(cell, f"{result.path.name}_again"))] for cell in found]
    return [shlex.join(words or []) for words in runs]


def _alone(cell: Cell, name: str) -> Settings:
    """Settings of a sweep of this cell and its other seeds."""
    settings = cell.settings
    pinned = settings.sweep.moments and not cell.row.has_own_moment
    sweep = replace(_sized(cell), methods=(cell.method,), find_at=(cell.find_at,) if pinned else ())
    schedules = replace(
        settings.schedules,
        schedule=(cell.schedule,),
        rounds=(cell.rounds,) if cell.row.rounds > 1 else (),
        rewind_to=(cell.rewind_to,),
        retrain_lr=() if cell.retrain_lr is None else (cell.retrain_lr,),
        retrain_distill=(),
        retrain_temperature=(),
        control=() if cell.control == "none" else (cell.control,),
    )
    optuna = settings.optuna
    if optuna.study is not None:
        optuna = replace(optuna, study=f"{optuna.study}_again")  # in the old one, the search would begin with its end
    search = settings.search
    if not cell.searches or search.warm_start == cell.usual_start:
        search = replace(search, warm_start=USUAL_START)
    run = replace(settings.run, name=name)
    return replace(settings, sweep=sweep, schedules=schedules, train=cell.train, search=search, optuna=optuna, run=run)


def _sized(cell: Cell) -> SweepSettings:
    """The settings of the sweep with the one sparsity, or the one cap, of the cell."""
    sweep = cell.settings.sweep
    size: dict[str, Any] = {f"max_{sweep.capped}": (cell.density,)} if sweep.capped else {"sparsity": (cell.sparsity,)}
    return replace(sweep, **size)


def flags_of(settings: Settings) -> list[str]:
    """Return the flags of ``masksearch run`` that give these settings; settings at their default need no flag."""
    flags: list[str] = []
    others: list[str] = []
    usual = Settings.of_command_line().with_changes({"sweep": {"granularity": settings.sweep.granularity}})
    for key, setting in settings_by_key().items():
        value, default = (getattr(getattr(one, setting.group), setting.name) for one in (settings, usual))
        if key == "sweep.granularity":
            default = setting.default
        # Caps replace the sparsity, which must not be given beside them.
        if value == default or (key == "sweep.sparsity" and settings.sweep.sized_by != "sparsity"):
            continue
        if key in flag_keys():
            flags += _flag(setting.flag, value)
        else:
            others.append(f"{key}={value_text(value)}")
    return [*flags, *(["--set", *others] if others else [])]


def _flag(flag: str, value: object) -> list[str]:
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag.removeprefix('--')}"]
    if isinstance(value, tuple):
        return [flag, *map(value_text, value)]
    return [flag, value_text(value)]
