"""The arguments of ``masksearch run``: flags for some settings, ``--set`` for all, and recipes as their defaults."""

import re
from argparse import SUPPRESS, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain
from typing import Any, Literal, NoReturn

from masksearch.cli.arguments import Parser
from masksearch.cli.help import add_other_flags
from masksearch.experiment import SCALES, Settings, load_recipe
from masksearch.experiment.settings.catalogue import Setting, flag_keys, flags_by_topic, settings_by_key
from masksearch.experiment.settings.removed import REMOVED
from masksearch.experiment.settings.text_values import parse_value, value_text
from masksearch.plugin import load_plugins
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["full_help", "parse"]

_METAVARS = {int: "N", float: "X", str: "TEXT"}


class RunParser(Parser):
    """Parser of the flags of ``masksearch run``; the help has the values of ``usual`` as defaults."""

    def __init__(self, prog: str, usual: Settings) -> None:
        super().__init__(prog, usage=f"{prog} [flags]", add_help=False)
        for topic, settings in flags_by_topic().items():
            group = self.add_argument_group(topic)
            for setting in settings:
                default = value_text(setting.value(usual)).replace(",", " ")
                text = _help(setting) + (f" (default: {default})" if default not in ("", "none") else "")
                group.add_argument(setting.flag, default=SUPPRESS, help=text, **_options(setting))
        add_other_flags(self)

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Raise an InputError for an unknown flag; it says what replaced a removed flag, or how ``--set`` is used."""
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
        super().refuse(unknown)

    @property
    def where_listed(self) -> str:
        """Sentence that names the command that lists all flags."""
        return f"{self.prog} --help-all lists all flags"


def parse(args: Sequence[str], prog: str) -> list[Settings] | Literal["list"]:
    """Return the settings of the sweeps to run, one for each part of a recipe; ``"list"`` for ``--list``.

    Raises
    ------
    InputError
        For a wrong flag, setting or value, in one line.
    """
    given = RunParser(prog, Settings()).parse(args)
    parts = _parts(given)
    if given.list:
        return "list"
    changes = _changes(given)
    settings = [_renamed(part.with_changes(changes), part, given) for part in parts]
    if "sparsity" in changes.get("sweep", {}):
        _check_sparsity_counts(settings)
    return settings


def full_help(args: Sequence[str], prog: str) -> str:
    """Return the text of ``--help-all``; defaults are those of the recipe that the arguments name, if they name one.

    Raises
    ------
    InputError
        For a wrong flag, or an unknown recipe, scale, part or plugin.
    """
    usual = _parts(RunParser(prog, Settings()).parse(args))[0]
    parser = RunParser(prog, usual)
    group = parser.add_argument_group("settings that are no flags, for --set KEY=VALUE")
    for key, setting in settings_by_key().items():
        if key not in flag_keys():
            group.add_argument(f"{key}={value_text(setting.value(usual))}", help=_help(setting))
    return parser.format_help()


def _options(setting: Setting) -> dict[str, Any]:
    """Arguments of argparse's ``add_argument`` for the type of a setting."""
    of = setting.type
    if of.kind is bool:
        return {"action": BooleanOptionalAction}
    metavar = "|".join(of.words) if of.words and not of.several else _METAVARS[of.kind]
    return {"metavar": metavar} | ({"nargs": "+"} if of.several else {})


def _help(setting: Setting) -> str:
    """Help of a setting, with the allowed words that its text does not name."""
    missing = [word for word in setting.type.words if word not in setting.text]
    allowed = f" Allowed: {', '.join(setting.type.words)}." if missing else ""
    return (setting.text + allowed).replace("%", "%%")


def _parts(given: Namespace) -> list[Settings]:
    """Load the plugins, and return the settings of the recipe's parts, or the usual settings."""
    load_plugins(getattr(given, "plugin", ()))  # before any value is checked against the tables
    choose("scale", given.scale, list(SCALES))
    if given.parts and not given.recipe:
        raise InputError(f"parts: {' '.join(given.parts)}; only a recipe has parts: give --recipe NAME, too")
    return load_recipe(given.recipe, given.scale, given.parts) if given.recipe else [Settings()]


def _changes(given: Namespace) -> dict[str, dict[str, Any]]:
    """Return {group: {name: value}} of the values that flags and ``--set`` give."""
    changes: dict[str, dict[str, Any]] = {}
    for setting in chain.from_iterable(flags_by_topic().values()):
        if setting.name in given:
            changes.setdefault(setting.group, {})[setting.name] = _value(setting, getattr(given, setting.name))
    for text in given.set:
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
    if not of.several:
        return None if of.optional and given.lower() == "none" else of.parse_one(given, flag)
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


def _renamed(settings: Settings, part: Settings, given: Namespace) -> Settings:
    """Settings whose typed name replaces the recipe's and keeps the suffix that separates the recipe's sweeps."""
    if not given.recipe or settings.run.name == part.run.name:
        return settings
    name = part.run.name.replace(f"{given.recipe}_{given.scale}", settings.run.name, 1)
    return replace(settings, run=replace(settings.run, name=name))
