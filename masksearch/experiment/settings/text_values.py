"""Values of settings as text: what ``--set group.field=value`` reads, and reports write."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["parse_value", "value_text"]

_BOOLEANS = {"true": True, "false": False}
_NUMBERS: dict[type, str] = {int: "a whole number", float: "a number"}


def parse_value(text: str, hint: Any, name: str) -> Any:
    """Read a value of the type ``hint``: ``0.9``, ``true``, ``none``, or ``3,5`` for several.

    Raises
    ------
    InputError
        If the text is no value of this type; ``name`` is the setting's in the message.
    """
    if get_origin(hint) in (Union, UnionType):  # X | None
        if text == "none":
            return None
        [hint] = [kind for kind in get_args(hint) if kind is not NoneType]
    if get_origin(hint) is tuple:
        items = [item.strip() for item in text.strip("[] ").split(",")]
        return tuple(parse_value(item, get_args(hint)[0], name) for item in items if item)
    if get_origin(hint) is Literal:
        return choose(name, text, list(get_args(hint)))
    if hint is bool:
        if text.lower() not in _BOOLEANS:
            raise InputError(f"{name}: {text!r}; true or false is needed")
        return _BOOLEANS[text.lower()]
    if hint in _NUMBERS:
        try:
            return hint(text)
        except ValueError:
            raise InputError(f"{name}: {text!r}; {_NUMBERS[hint]} is needed") from None
    return text


def value_text(value: Any) -> str:
    """Write a value as :func:`parse_value` reads it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(value_text, value))
    return repr(value) if isinstance(value, float) else str(value)
