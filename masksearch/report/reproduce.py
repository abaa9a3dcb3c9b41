"""The command that makes one row of a sweep again: flags for all that isn't as it is by default."""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import replace

from masksearch.analysis import Group
from masksearch.experiment import Cell, Settings, SweepResult, grid
from masksearch.experiment.settings.combined import NESTED, SweepSettings

__all__ = ["flags_of", "row_commands", "sweep_command"]


def sweep_command(result: SweepResult) -> list[str]:
    """The command line of the whole sweep; empty for a sweep of several parts."""
    return ["masksearch", "run", *flags_of(result.settings[0])] if len(result.settings) == 1 else []


def row_commands(result: SweepResult, groups: Sequence[Group]) -> list[str]:
    """A command line for every group; empty where no cell of the settings has the folder.

    The runs get a name of their own, so that the folder of the sweep stays as it is. Dense networks are found again.
    """
    cells = {cell.folder: cell for part in result.settings for cell in grid(part)}
    return [_command(cells.get(result.folders[group.places[0]].name), result) for group in groups]


def _command(cell: Cell | None, result: SweepResult) -> str:
    if cell is None:
        return ""
    return shlex.join(["masksearch", "run", *flags_of(_alone(cell, f"{result.path.name}_again"))])


def _alone(cell: Cell, name: str) -> Settings:
    """The settings of a sweep that has this cell, its other seeds, and what they need."""
    settings = cell.settings
    pinned = settings.sweep.moments and not cell.row.has_own_moment
    sweep = replace(_sized(cell), methods=(cell.method,), find_at=(cell.find_at,) if pinned else ())
    schedules = replace(
        settings.schedules,
        schedule=(cell.schedule,),
        rounds=(cell.rounds,) if cell.row.rounds > 1 else (),
        rewind_to=(cell.rewind_to,),
        retrain_lr=() if cell.retrain_lr is None else (cell.retrain_lr,),
        control=() if cell.control == "none" else (cell.control,),  # type: ignore[arg-type]
    )
    optuna = settings.optuna
    if optuna.study is not None:
        optuna = replace(optuna, study=f"{optuna.study}_again")  # in the old one, the search would begin with its end
    return replace(settings, sweep=sweep, schedules=schedules, optuna=optuna, run=replace(settings.run, name=name))


def _sized(cell: Cell) -> SweepSettings:
    """The settings of the sweep with the one sparsity, or the one cap, of the cell."""
    sweep = cell.settings.sweep
    match sweep.capped:
        case "macs":
            return replace(sweep, max_macs=(cell.density,))
        case "params":
            return replace(sweep, max_params=(cell.density,))
        case "latency":
            return replace(sweep, max_latency=(cell.density,))
    return replace(sweep, sparsity=(cell.sparsity,))


def flags_of(settings: Settings) -> list[str]:
    """The flags of ``masksearch run`` that ask for these settings."""
    flags: list[str] = []
    for group in dataclasses.fields(Settings):
        own = getattr(settings, group.name)
        usual = getattr(Settings(), group.name)
        prefix = f"--{group.name}." if group.name in NESTED else "--"
        for item in dataclasses.fields(own):
            value = getattr(own, item.name)
            if item.name == "sparsity" and settings.sweep.sized_by != "sparsity":
                continue  # it says nothing, and is no flag to give beside the one that does
            if value != getattr(usual, item.name):
                flags += _flag(prefix, item.name.replace("_", "-"), value)
    return flags


def _flag(prefix: str, name: str, value: object) -> list[str]:
    if isinstance(value, bool):  # a flag alone, which changes what is usual
        return [f"{prefix}{name}" if value else f"{prefix}no-{name}"]
    if isinstance(value, tuple):
        return [f"{prefix}{name}", *map(_text, value)]
    return [f"{prefix}{name}", _text(value)]


def _text(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)
