"""Values as TOML has them, made into what the fields of settings ask for."""

import dataclasses
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["fitted", "fitted_table"]

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def fitted_table(group: type, key: str, values: Any, source: str) -> dict[str, object]:
    """A table of the fields of one dataclass, each :func:`fitted`."""
    if not isinstance(values, dict):
        raise InputError(f"{source}: {key} is {values!r}; a table of its settings is needed")
    hints = get_type_hints(group)
    for name in values:
        choose(f"key in {source} [{key}]", name, [item.name for item in dataclasses.fields(group)])
    return {name: fitted(value, hints[name], f"{source}: {key}.{name}") for name, value in values.items()}


def fitted(value: Any, hint: Any, name: str) -> Any:
    """``value`` as TOML has it, as what a field's type ``hint`` asks for: lists become tuples, and 1 is a float, too.

    Raises
    ------
    InputError
        If it is of another type. Which texts a field takes is its group's to say.
    """
    if get_origin(hint) in (Union, UnionType):  # X | None; TOML has no null
        [hint] = [kind for kind in get_args(hint) if kind is not NoneType]
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} is {value!r}; a list is needed")
        return tuple(fitted(item, get_args(hint)[0], name) for item in value)
    kind = str if get_origin(hint) is Literal else hint
    if type(value) is int and kind is float:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{name} is {value!r}; {_WORDS[kind]} is needed")
    return value
