"""The arguments of ``masksearch run``: flags for some settings, ``--set`` for all, and recipes as their defaults."""

import re
from collections.abc import Sequence
from dataclasses import make_dataclass, replace
from difflib import get_close_matches
from functools import cache
from itertools import chain
from typing import Annotated, Any, Literal

from masksearch.cli.help import OTHERS, OtherFlags, help_text, other_entries
from masksearch.cli.tyro_arguments import Texts, given_flags, one, read_known, refuse, takes
from masksearch.experiment import SCALES, Settings, load_recipe, recipe_title
from masksearch.experiment.settings.catalogue import Setting, flag_keys, flags_by_topic, settings_by_key
from masksearch.experiment.settings.removed import REMOVED
from masksearch.experiment.settings.text_values import parse_value, value_text
from masksearch.plugin import load_plugins
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

_ALIASES = {"--data": "--dataset"}
_METAVARS = {int: "N", float: "X", str: "TEXT"}


def parse(args: Sequence[str], prog: str) -> list[Settings] | Literal["list"]:
    """Parse the arguments of ``masksearch run`` into Settings, one per part of a recipe; for --list, return "list".

    Raises
    ------
    InputError
        For a wrong flag, setting or value, in one line.
    """
    flags, given = _read(args, prog)
    parts = _parts(flags)
    if flags.list:
        return "list"
    changes = _changes(flags, given)
    settings = [_renamed(part.with_changes(changes), part, flags) for part in parts]
    if "sparsity" in changes.get("sweep", {}):
        _check_sparsity_counts(settings)
    return settings


def full_help(args: Sequence[str], prog: str) -> str:
    """Return the text of ``masksearch run --help-all``, with a recipe's defaults if ``args`` name a recipe.

    Raises
    ------
    InputError
        For a wrong flag, or an unknown recipe, scale, part or plugin.
    """
    usual = _parts(_read(args, prog)[0])[0]
    topics: dict[str, list[tuple[str, str]]] = {}
    for topic, settings in flags_by_topic().items():
        entries = topics.setdefault(topic, [])
        for setting in settings:
            default = value_text(setting.value(usual)).replace(",", " ")
            text = _help(setting) + (f" (default: {default})" if default not in ("", "none") else "")
            switch = f", --no-{setting.flag[2:]}" if setting.type.kind is bool else f" {_metavar(setting)}"
            names = [setting.flag, *(alias for alias, flag in _ALIASES.items() if flag == setting.flag)]
            entries.append((", ".join(names) + switch, text))
    topics[OTHERS] = other_entries()
    topics["settings that are no flags, for --set KEY=VALUE"] = [
        (f"{key}={value_text(setting.value(usual))}", _help(setting))
        for key, setting in settings_by_key().items()
        if key not in flag_keys()
    ]
    return f"usage: {prog} [flags]\n" + help_text(topics, indent=30)


@cache
def _flags() -> type[OtherFlags]:
    """Return the dataclass of all flags, which tyro reads: those of settings, and those that are none."""
    of_settings: list[tuple[str, Any, Any]] = [
        (setting.name, bool, False)
        if setting.type.kind is bool
        else (setting.name, Annotated[Texts, takes(_metavar(setting), _help(setting))], ())
        for setting in chain.from_iterable(flags_by_topic().values())
    ]
    return make_dataclass("Flags", of_settings, bases=(OtherFlags,), frozen=True)


def _read(args: Sequence[str], prog: str) -> tuple[Any, set[str]]:
    """Return the values of all flags as texts, and the names of those given; raise an InputError for unknown ones."""
    for alias, flag in _ALIASES.items():
        args = [flag + arg[len(alias) :] if arg.partition("=")[0] == alias else arg for arg in args]
    given, unknown = read_known(_flags(), args, prog)
    if unknown:
        _refuse_former_flags(unknown)
        refuse(unknown, _flags(), args, f"{prog} --help-all")
    return given, set(given_flags(args))


def _refuse_former_flags(unknown: Sequence[str]) -> None:
    """Raise an InputError for a removed flag, with its replacement, or for a setting that needs ``--set``."""
    flag, _, value = unknown[0].partition("=")
    name = flag.removeprefix("--").replace("-", "_")
    if name in REMOVED:
        raise InputError(f"{flag}: {REMOVED[name]}")
    plain = re.sub(r"(^|\.)no_", r"\1", name)
    for setting in settings_by_key().values() if flag.startswith("--") else ():
        if setting.key in flag_keys() and plain == setting.key:
            raise InputError(f"{flag}: give {setting.flag}, or --set {setting.key}=VALUE")
        if setting.key not in flag_keys() and plain in (setting.key, setting.name):
            ends = [place for place, arg in enumerate(unknown) if arg.startswith("--")][1:]
            values = [value] if value else unknown[1 : ends[0] if ends else None]
            usual = str(plain == name).lower() if setting.type.kind is bool else value_text(setting.default)
            raise InputError(f"{flag}: give --set {setting.key}={','.join(values) or usual}")


def _metavar(setting: Setting) -> str:
    of = setting.type
    return "|".join(of.words) if of.words and not of.several else _METAVARS[of.kind] + " ..." * of.several


def _help(setting: Setting) -> str:
    """Help of a setting, with the allowed words that its text does not name."""
    missing = [word for word in setting.type.words if word not in setting.text]
    return setting.text + (f" Allowed: {', '.join(setting.type.words)}." if missing else "")


def _parts(flags: Any) -> list[Settings]:
    """Load the plugins, and return the settings of the recipe's parts, or the usual settings."""
    load_plugins(flags.plugin)  # before any value is checked against the tables
    recipe, scale = _recipe(flags)
    if not recipe:
        choose("scale", scale, list(SCALES))
    if flags.parts and not recipe:
        raise InputError(f"parts: {' '.join(flags.parts)}; only a recipe has parts: give --recipe NAME, too")
    return load_recipe(recipe, scale, flags.parts) if recipe else [Settings.of_command_line()]


def _recipe(flags: Any) -> tuple[str | None, str]:
    """Return the names of the recipe, or None, and of its scale."""
    recipe = one(flags.recipe, "--recipe")
    if recipe == "":
        raise InputError("--recipe: ''; a name is needed, and masksearch --list prints all names")
    return recipe, one(flags.scale, "--scale") or "cpu"


def _changes(flags: Any, given: set[str]) -> dict[str, dict[str, object]]:
    """Return {group: {name: value}} of the values that flags and ``--set`` give."""
    changes: dict[str, dict[str, object]] = {}
    for setting in chain.from_iterable(flags_by_topic().values()):
        if {setting.name, f"no_{setting.name}"} & given:
            changes.setdefault(setting.group, {})[setting.name] = _value(setting, getattr(flags, setting.name))
    for text in chain.from_iterable(flags.set):
        key, equals, value = text.partition("=")
        setting = _setting(key)
        if not equals:
            raise InputError(f"set: {text!r}; give {key}=VALUE, for example {key}={value_text(setting.default)}")
        changes.setdefault(setting.group, {})[setting.name] = parse_value(value, setting.type, key)
    return changes


def _value(setting: Setting, given: Any) -> Any:
    """The value of a flag; words are checked later, by the settings."""
    flag, of = setting.flag, setting.type
    if of.kind is bool:
        return given
    if "" in given:
        raise InputError(f"{flag}: ''; a value is needed")
    if not of.several:
        text = one(given, flag) or ""
        return None if of.optional and text.lower() == "none" else of.parse_one(text, flag)
    for text in given:
        if "," in text and setting.name != "plugin":
            spaced = " ".join(filter(None, text.split(",")))
            raise InputError(f"{flag}: {text!r}; separate values with spaces: {flag} {spaced}")
    return tuple(of.parse_one(text, flag) for text in given)


def _setting(key: str) -> Setting:
    known = settings_by_key()
    group, _, name = key.partition(".")
    if key in REMOVED or name in REMOVED:
        raise InputError(f"{key}: {REMOVED.get(key) or REMOVED[name]}")
    if key not in known and not name:
        near = get_close_matches(key, [setting.name for setting in known.values()], n=1)
        full = [setting.key for setting in known.values() if setting.name in near]
        if full:
            raise InputError(f"set: {key!r} has no group: give {' or '.join(full)}")
    choose(f"group of settings in {key!r}:", group, list(dict.fromkeys(one.group for one in known.values())))
    return known[choose("setting", key, [other for other in known if other.startswith(f"{group}.")])]


def _check_sparsity_counts(settings: Sequence[Settings]) -> None:
    """Raise an InputError if a sparsity is typed beside a bound that replaces it."""
    for own in settings:
        instead = own.sweep.sized_by
        if instead != "sparsity":
            value = " ".join(f"{sparsity:g}" for sparsity in own.sweep.sparsity)
            raise InputError(f"sparsity: {value}; {instead} replaces it, so give one of the two")


def _renamed(settings: Settings, part: Settings, flags: Any) -> Settings:
    """Settings whose typed name replaces the recipe's and keeps the suffix that separates the recipe's sweeps."""
    recipe, scale = _recipe(flags)
    if not recipe or settings.run.name == part.run.name:
        return settings
    name = part.run.name.replace(f"{recipe_title(recipe)}_{scale}", settings.run.name, 1)
    return replace(settings, run=replace(settings.run, name=name))
