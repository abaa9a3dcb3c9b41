"""Flags: made by tyro from the settings' dataclasses, with recipes as defaults and one-line errors."""

import io
import os
import re
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal
from unittest.mock import patch

import tyro

from masksearch.experiment import Settings, load_recipe
from masksearch.experiment.settings.combined import RunSettings, ScoringSettings, SweepSettings
from masksearch.experiment.settings.removed import REMOVED
from masksearch.experiment.settings.schedule_settings import ScheduleSettings
from masksearch.experiment.settings.search_settings import OptunaSettings, SearchSettings
from masksearch.plugin import load_plugins
from masksearch.searchers import Annealing
from masksearch.supermasks import SupermaskSettings
from masksearch.training import TrainSettings
from masksearch.utils.errors import InputError

__all__ = ["parse"]

_CONFIG = (tyro.conf.FlagCreatePairsOff,)

_FLAT = tyro.conf.arg(name="")  # --sparsity, not --sweep.sparsity


@dataclass(frozen=True)
class _Flags:
    """Find pruning masks by search and by criteria, retrain each, compare them all."""

    sweep: Annotated[SweepSettings, _FLAT] = field(default_factory=SweepSettings)
    train: Annotated[TrainSettings, _FLAT] = field(default_factory=TrainSettings)
    schedules: Annotated[ScheduleSettings, _FLAT] = field(default_factory=ScheduleSettings)
    scoring: Annotated[ScoringSettings, _FLAT] = field(default_factory=ScoringSettings)
    search: Annotated[SearchSettings, _FLAT] = field(default_factory=SearchSettings)
    annealing: Annealing = field(default_factory=Annealing)
    optuna: OptunaSettings = field(default_factory=OptunaSettings)
    supermask: SupermaskSettings = field(default_factory=SupermaskSettings)
    run: Annotated[RunSettings, _FLAT] = field(default_factory=RunSettings)
    recipe: str | None = None
    """A published experiment, as defaults for all other flags; --list names them."""
    scale: Literal["smoke", "cpu", "paper"] = "cpu"
    """How large a recipe: seconds, minutes to hours on two cores, or as published."""
    parts: tuple[str, ...] = ()
    """Names of those parts of the recipe that are to run; all if not given."""
    list: bool = False
    """Print every method, objective, model, data set and recipe, and end."""


def parse(args: Sequence[str], prog: str) -> list[Settings] | Literal["list"]:
    """The settings that the flags ask for, one for each part of a recipe; ``"list"`` for ``--list``.

    Raises
    ------
    InputError
        For a flag or value that can't be, in one line.
    SystemExit
        After ``--help``.
    """
    early = ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe", nargs="?")  # a value that is missing is tyro's to tell
    early.add_argument("--scale", nargs="?", default="cpu", const="cpu")
    early.add_argument("--parts", nargs="*", default=[])
    early.add_argument("--plugin", nargs="*", default=[])
    given, _ = early.parse_known_args(args)
    load_plugins(given.plugin)  # before any flag is checked against the tables
    if given.parts and not given.recipe:
        raise InputError(f"parts: {' '.join(given.parts)}; they are those of a recipe, which --recipe names")
    parts = load_recipe(given.recipe, given.scale, given.parts) if given.recipe else [Settings()]
    if {"-h", "--help"} & set(args):
        tyro.cli(
            _Flags, prog=prog, args=["--help"], default=_defaults(parts[0]), config=_CONFIG
        )  # prints, exits with 0
    _check_removed(args)
    asked = [_parsed(args, prog, part) for part in parts]
    if asked[0].list:
        return "list"
    settings = [_settings(flags, part) for flags, part in zip(asked, parts, strict=True)]
    if "--sparsity" in {arg.partition("=")[0] for arg in args}:
        _check_sparsity_counts(settings)
    return settings


def _check_removed(args: Sequence[str]) -> None:
    """Raise an InputError that says why, for a flag of an earlier version."""
    for arg in args:
        flag = arg.partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and name in REMOVED:
            raise InputError(f"{flag}: {REMOVED[name]}")


def _check_sparsity_counts(settings: Sequence[Settings]) -> None:
    """A sparsity that was typed must say something; one that is a default may stand behind caps."""
    for own in settings:
        instead = own.sweep.sized_by
        if instead != "sparsity":
            value = " ".join(f"{sparsity:g}" for sparsity in own.sweep.sparsity)
            raise InputError(f"sparsity: {value}; {instead} stands in its place, so give one of them")


def _parsed(args: Sequence[str], prog: str, part: Settings) -> _Flags:
    errors = io.StringIO()
    try:
        # Wide, so that no message is broken over lines.
        with patch.dict(os.environ, {"COLUMNS": "10000"}), redirect_stderr(errors):
            return tyro.cli(_Flags, prog=prog, args=list(args), default=_defaults(part), config=_CONFIG)
    except SystemExit:
        raise InputError(_in_one_line(errors.getvalue())) from None


def _defaults(part: Settings) -> _Flags:
    return _Flags(**{group.name: getattr(part, group.name) for group in fields(Settings)})


def _settings(flags: _Flags, part: Settings) -> Settings:
    settings = Settings(**{group.name: getattr(flags, group.name) for group in fields(Settings)})
    # A name that is asked for stands for that of the recipe; what tells its sweeps apart stays behind it.
    recipe = f"{flags.recipe}_{flags.scale}"
    if flags.recipe and settings.run.name != part.run.name:
        name = part.run.name.replace(recipe, settings.run.name, 1)
        settings = replace(settings, run=replace(settings.run, name=name))
    return settings


def _in_one_line(box: str) -> str:
    """What tyro's box says: the mistake, and the flag's own help, or the flag that was meant."""
    parts = [""]
    for line in box.splitlines()[1:]:  # the first is the box's title
        text = line.strip(" │")
        if re.fullmatch("[─╰╯-]+", text):  # a rule; of dashes, where the terminal has no others
            parts.append("")
        else:
            parts[-1] += f" {text}"
    message, *notes = (" ".join(part.split()) for part in parts if part.strip())
    groups = "|".join(group.name for group in fields(Settings))
    message = re.sub(f"^Error parsing ({groups}): ", "", message)
    # Of a flag with several types, tyro tells what each of them made of the value.
    message = re.sub(
        r"no type matching (\S+) could be instantiated from \[(.*?)\]\. Got errors: .*", r"\2 is no \1", message
    )
    for note in notes:
        note = note.removeprefix("Argument helptext: ")
        if note.startswith("Perhaps you meant: "):
            note = f"perhaps you meant {' or '.join(re.findall(r'--[a-z.-]+', note)[:2])}"
        if not note.startswith("For full helptext"):
            message += f"; {note}"
    return message
