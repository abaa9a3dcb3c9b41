"""Exceptions whose messages are for users, and checks of input that raise them."""

import math
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

LARGEST = 2**31 - 1
"""Largest whole number that a setting may have, unless it has a bound of its own."""

_LARGEST_FLOAT = 1e12


class InputError(ValueError):
    """Exception for wrong input by a user; a one-line message names the thing, its value and the allowed values.

    The command line prints it without a traceback and exits with code 2.
    """


class StorageError(OSError):
    """Exception for object storage that is full, can't be reached or refuses an operation; the message says which.

    It ends a sweep, as errors of a disk do; finished cells are kept on the machine that ran them.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, up to 300 characters; without a message, the error's type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def named_first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message, such as ``KeyError: 'a'``; at most 200 characters."""
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:200]


def require(name: str, value: object, fine: bool, allowed: str) -> None:
    """Raise an :class:`InputError` about a setting's wrong value, unless ``fine``, the result of a check, is True."""
    if not fine:
        raise InputError(f"{name}: {value}; allowed is {allowed}")


def check_type(name: str, value: object, kinds: type | tuple[type, ...], allowed: str) -> None:
    """Raise an :class:`InputError` unless ``value`` has a type in ``kinds``; the message says what is allowed."""
    if not isinstance(value, kinds):
        raise InputError(f"{name}: {ascii(value)[:60]} is a {type(value).__name__}; allowed is {allowed}")


def check_real(name: str, value: object, allowed: str) -> None:
    """Raise an :class:`InputError` unless ``value`` is an int or a float; the message says what is allowed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name}: {ascii(value)[:60]} is a {type(value).__name__}; allowed is {allowed}")


def check_whole(name: str, value: object, least: int = 0, most: int = LARGEST) -> int:
    """Return ``value`` if it is a whole number, no bool, from ``least`` to ``most``; otherwise, raise an InputError."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= int(value) <= most:
        raise InputError(f"{name}: {str(value)[:40]!s}; allowed is a whole number from {least:,} to {most:,}")
    return int(value)


def check_numbers(settings: Any, **most: float) -> None:
    """Raise an :class:`InputError` for the first field of a dataclass whose number has a wrong type or size.

    Fields annotated with int take whole numbers up to :data:`LARGEST`, those with float take numbers up to 1e12, both
    also in tuples, and None where the annotation allows it. ``most`` has other largest values by name.

    Raises
    ------
    InputError
        For the first field with another type or a larger number. Infinity and NaN pass, which the fields' own checks
        name.
    """
    owner: Any = type(settings)
    for name, (kind, optional, several) in _kinds(owner).items():
        value = getattr(settings, name)
        if value is None and not optional:
            raise InputError(f"{name}: None; allowed is a number")
        if several:
            check_type(name, value, (tuple, list), "a sequence of numbers")
        bound = most.get(name, LARGEST if kind is int else _LARGEST_FLOAT)
        for one in value if several else (value,):
            if one is None:
                continue
            wanted: Any = Integral if kind is int else Real
            if isinstance(one, bool) or not isinstance(one, wanted) or bound < abs(one) < math.inf:
                words = "a whole number" if kind is int else "a number"
                raise InputError(f"{name}: {str(one)[:40]}; allowed is {words}, at most {bound:,g}")


@cache
def _kinds(kind: type) -> dict[str, tuple[type, bool, bool]]:
    """{name of a field with numbers: (int or float, whether None is allowed, whether it is a sequence)}."""
    try:
        hints = get_type_hints(kind)
    except NameError:  # names that only a type checker sees, in a class of a user
        return {}
    found: dict[str, tuple[type, bool, bool]] = {}
    for item in fields(kind):
        parts = {hints[item.name], *get_args(hints[item.name])}
        if bool not in parts and (number := next((one for one in (int, float) if one in parts), None)):
            found[item.name] = number, NoneType in parts, get_origin(hints[item.name]) in (tuple, list)
    return found
