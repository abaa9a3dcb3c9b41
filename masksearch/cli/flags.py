"""The arguments of ``masksearch run``: flags for some settings, ``--set`` for all, and recipes as their defaults."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from masksearch.cli.arguments import read_arguments, read_known
from masksearch.experiment import SCALES, Settings, load_recipe
from masksearch.experiment.settings.catalogue import Setting, flag_keys, settings_by_key
from masksearch.experiment.settings.removed import REMOVED
from masksearch.experiment.settings.text_values import parse_value, value_text
from masksearch.plugin import load_plugins
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["choices", "is_several", "parse", "start"]

Changes = dict[str, dict[str, object]]  # group -> field -> value


@dataclass(frozen=True)
class Start:
    """The flags that are read before all others: they decide defaults and known rows."""

    recipe: str | None = None
    """Published experiment whose settings are the defaults of all flags: a row of --list."""
    scale: str = "cpu"
    """Size of the recipe: smoke (seconds), cpu (minutes to hours on two cores), or paper (as published)."""
    parts: tuple[str, ...] = ()
    """Names of the parts of the recipe to run; all if not given."""
    plugin: tuple[str, ...] = ()
    """Your own modules."""


def start(args: Sequence[str], prog: str) -> tuple[Start, list[Settings]]:
    """Load the plugins, and return the flags of the start with the settings of the recipe's parts, or the usual ones.

    Raises
    ------
    InputError
        For an unknown recipe, scale, part or plugin.
    """
    given = read_known(Start, args, prog)
    load_plugins(given.plugin)  # before any flag is checked against the tables
    choose("scale", given.scale, list(SCALES))
    if given.parts and not given.recipe:
        raise InputError(f"parts: {' '.join(given.parts)}; only a recipe has parts: give --recipe NAME, too")
    parts = load_recipe(given.recipe, given.scale, given.parts) if given.recipe else [Settings()]
    return given, parts


def parse(args: Sequence[str], prog: str) -> list[Settings] | Literal["list"]:
    """Return the settings that the arguments ask for, one for each part of a recipe; ``"list"`` for ``--list``.

    Raises
    ------
    InputError
        For a wrong flag, setting or value, in one line.
    """
    given, parts = start(args, prog)
    typed = _typed(args)
    _check_names(args)
    flags: Any = read_arguments(_flags(), args, prog)
    if flags.list:
        return "list"
    changes = _changes(flags, typed)
    settings = [_renamed(part.with_changes(changes), part, given) for part in parts]
    if "sparsity" in changes.get("sweep", {}):
        _check_sparsity_counts(settings)
    return settings


@cache
def _flags() -> type:
    """The dataclass of all flags: those of settings, and those that are none."""
    known = settings_by_key()
    of_settings = [
        (setting.name, Annotated[_plain(setting), _about(setting)], field(default=setting.default))
        for setting in map(known.__getitem__, flag_keys())
        if setting.name != "plugin"
    ]
    settings = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]
    others = [("set", settings, field(default=())), ("list", bool, field(default=False))]
    return make_dataclass("Flags", [*of_settings, *others], bases=(Start,), frozen=True)


def choices(setting: Setting) -> list[str]:
    """Return the words that a setting allows, if it allows only some."""
    kinds = [setting.hint, *get_args(setting.hint)]
    return [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]


def is_several(setting: Setting) -> bool:
    """Return whether a setting has several values."""
    return get_origin(setting.hint) is tuple


def _plain(setting: Setting) -> Any:
    """The type that tyro checks. The settings check words themselves, and suggest the nearest one."""
    if not choices(setting):
        return setting.hint
    return tuple[str, ...] if is_several(setting) else str | None


def _about(setting: Setting) -> Any:
    words = choices(setting)
    return tyro.conf.arg(help=setting.text, metavar="|".join(words) if words and not is_several(setting) else None)


def _typed(args: Sequence[str]) -> dict[str, list[str]]:
    """The flags among the arguments, by name with underscores, each with its values."""
    typed: dict[str, list[str]] = {}
    values: list[str] = []
    for arg in args:
        if arg.startswith("--"):
            flag, equals, value = arg.partition("=")
            values = typed.setdefault(flag[2:].replace("-", "_"), [])
            values += [value] if equals else []
        else:
            values.append(arg)
    return typed


def _check_names(args: Sequence[str]) -> None:
    """Raise an InputError with a sentence for flags that were removed or became settings, and for commas."""
    flags = {settings_by_key()[key].name: settings_by_key()[key] for key in flag_keys()}
    for name, values in _typed(args).items():
        flag = next(arg.partition("=")[0] for arg in args if arg[2:].partition("=")[0].replace("-", "_") == name)
        if name in REMOVED:
            raise InputError(f"{flag}: {REMOVED[name]}")
        setting = flags.get(name)
        if setting is None:
            _check_is_no_setting(flag, name, values)
        elif is_several(setting) and name != "plugin":
            if not values:
                raise InputError(f"{name}: nothing given; at least one is needed")
            for value in values:
                if "," in value:
                    spaced = " ".join(filter(None, value.split(",")))
                    raise InputError(f"{flag}: {value!r}; separate values with spaces: {flag} {spaced}")


def _check_is_no_setting(flag: str, name: str, values: Sequence[str]) -> None:
    for setting in settings_by_key().values():
        own = {
            setting.name,
            setting.key,
            f"no_{setting.name}",
            f"no_{setting.key}",
            f"{setting.group}.no_{setting.name}",
        }
        if name in own and setting.key not in flag_keys():
            boolean = "false" if "no_" in name else "true"
            value = ",".join(values) or (boolean if setting.hint is bool else value_text(setting.default))
            raise InputError(f"{flag}: give --set {setting.key}={value}")
        if name == setting.key:
            raise InputError(f"{flag}: give {setting.flag}, or --set {setting.key}=VALUE")


def _changes(flags: Any, typed: dict[str, list[str]]) -> Changes:
    """The values that flags and ``--set`` give."""
    changes: Changes = {}
    for setting in map(settings_by_key().__getitem__, flag_keys()):
        if setting.name in typed or f"no_{setting.name}" in typed:
            changes.setdefault(setting.group, {})[setting.name] = getattr(flags, setting.name)
    if "set" in typed and not typed["set"]:
        raise InputError("set: nothing given; give group.field=value, for example --set train.momentum=0.8")
    for text in typed.get("set", ()):
        key, equals, value = text.partition("=")
        setting = _setting(key)
        if not equals:
            raise InputError(f"set: {text!r}; give {key}=VALUE, for example {key}={value_text(setting.default)}")
        changes.setdefault(setting.group, {})[setting.name] = parse_value(value, setting.hint, key)
    return changes


def _setting(key: str) -> Setting:
    known = settings_by_key()
    if key in REMOVED or key.partition(".")[2] in REMOVED:
        raise InputError(f"{key}: {REMOVED.get(key) or REMOVED[key.partition('.')[2]]}")
    if key not in known and "." not in key:
        near = difflib.get_close_matches(key, [setting.name for setting in known.values()], n=1, cutoff=0.6)
        full = [setting.key for setting in known.values() if setting.name in near]
        if full:
            raise InputError(f"set: {key!r} has no group: give {' or '.join(full)}")
    group = [other for other in known if other.startswith(f"{key.partition('.')[0]}.")]
    if not group:
        groups = list(dict.fromkeys(setting.group for setting in known.values()))
        choose(f"group of settings in {key!r}:", key.partition(".")[0], groups)
    return known[choose("setting", key, group)]


def _check_sparsity_counts(settings: Sequence[Settings]) -> None:
    """A sparsity that was typed needs an effect; a default may be unused where caps are given."""
    for own in settings:
        instead = own.sweep.sized_by
        if instead != "sparsity":
            value = " ".join(f"{sparsity:g}" for sparsity in own.sweep.sparsity)
            raise InputError(f"sparsity: {value}; {instead} replaces it, so give one of the two")


def _renamed(settings: Settings, part: Settings, given: Start) -> Settings:
    """A name that is typed replaces the recipe's; the suffix that separates the recipe's sweeps stays behind it."""
    if not given.recipe or settings.run.name == part.run.name:
        return settings
    name = part.run.name.replace(f"{given.recipe}_{given.scale}", settings.run.name, 1)
    return replace(settings, run=replace(settings.run, name=name))
