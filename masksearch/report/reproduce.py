"""The command that makes one row of a sweep again: flags for all that isn't as it is by default."""

import shlex
from collections.abc import Sequence
from dataclasses import replace

from masksearch.analysis import Group
from masksearch.experiment import Cell, Settings, SweepResult, grid
from masksearch.experiment.settings.catalogue import flag_keys, settings_by_key
from masksearch.experiment.settings.combined import SweepSettings
from masksearch.experiment.settings.text_values import value_text

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
    """The flags of ``masksearch run``, and the values of ``--set``, that ask for these settings."""
    flags: list[str] = []
    others: list[str] = []
    usual = Settings().with_changes({"sweep": {"granularity": settings.sweep.granularity}})
    for key, setting in settings_by_key().items():
        value = getattr(getattr(settings, setting.group), setting.name)
        if key == "sweep.sparsity" and settings.sweep.sized_by != "sparsity":
            continue  # caps replace it, and it must not be given beside them
        default = (
            setting.default if key == "sweep.granularity" else getattr(getattr(usual, setting.group), setting.name)
        )
        if value == default:
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
    return [flag, "None" if value is None else value_text(value)]
