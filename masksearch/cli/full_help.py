"""The text of ``masksearch run --help-all``: all flags by topic, and all settings that ``--set`` takes."""

from collections.abc import Iterable, Iterator, Sequence
from textwrap import wrap
from typing import Any, get_args

from masksearch.cli.flags import Start, choices, is_several, start
from masksearch.experiment import Settings
from masksearch.experiment.settings.catalogue import FLAGS, Setting, field_texts, flag_keys, settings_by_key
from masksearch.experiment.settings.text_values import value_text

__all__ = ["full_help"]

_WIDTH, _INDENT = 100, 30
_METAVARS = {int: "N", float: "X", str: "TEXT"}

_OTHERS = {
    "--recipe NAME": field_texts(Start)["recipe"],
    "--scale smoke|cpu|paper": field_texts(Start)["scale"],
    "--parts NAME ...": field_texts(Start)["parts"],
    "--set GROUP.FIELD=VALUE ...": "Any setting above or below, as --set train.momentum=0.8 annealing.chains=4. Commas "
    "separate several values; none unsets a value.",
    "--list": "Print every method, schedule, objective, network, data set and recipe.",
    "--help": "Print the main flags.",
    "--help-all": "Print this text.",
}


def full_help(args: Sequence[str]) -> str:
    """Return the text; defaults are those of the recipe that the arguments name, if they name one.

    Raises
    ------
    InputError
        For an unknown recipe, scale, part or plugin.
    """
    _, parts = start(args, "masksearch run")
    lines = ["usage: masksearch run [flags]", ""]
    for topic, keys in FLAGS.items():
        lines += [f"{topic}:", *_flags(map(settings_by_key().__getitem__, keys), parts[0]), ""]
    lines += ["recipes and other settings:"]
    for flag, text in _OTHERS.items():
        lines += _entry(flag, text)
    lines += ["", "settings that are no flags, for --set GROUP.FIELD=VALUE:"]
    for setting in settings_by_key().values():
        if setting.key not in flag_keys():
            lines += _entry(f"{setting.key}={_usual(setting, parts[0])}", setting.text + _allowed(setting))
    return "\n".join(lines) + "\n"


def _flags(settings: Iterable[Setting], part: Settings) -> Iterator[str]:
    for setting in settings:
        usual = _usual(setting, part).replace(",", " ")
        if setting.hint is bool:
            flag = f"{setting.flag}, --no-{setting.flag[2:]}"
        else:
            flag = f"{setting.flag} {_metavar(setting)}{' ...' * is_several(setting)}"
        text = setting.text + _allowed(setting) * is_several(setting)
        yield from _entry(flag, f"{text} (default: {usual})" if usual not in ("", "none") else text)


def _usual(setting: Setting, part: Settings) -> str:
    return value_text(getattr(getattr(part, setting.group), setting.name))


def _metavar(setting: Setting) -> str:
    if choices(setting):
        return "NAME" if is_several(setting) else "|".join(choices(setting))
    kinds: list[Any] = [setting.hint, *get_args(setting.hint)]
    return next(word for kind, word in _METAVARS.items() if kind in kinds)


def _allowed(setting: Setting) -> str:
    words = [word for word in choices(setting) if word not in setting.text]
    return f" Allowed: {', '.join(choices(setting))}." if words else ""


def _entry(head: str, text: str) -> Iterator[str]:
    """A flag or setting and its text, which begins on the next line where the first is long."""
    lines = wrap(text, _WIDTH - _INDENT)
    if len(head) > _INDENT - 4:
        yield f"  {head}"
    else:
        yield f"  {head:<{_INDENT - 2}}{lines.pop(0)}"
    yield from (" " * _INDENT + line for line in lines)
