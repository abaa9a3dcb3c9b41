"""Values of settings: read from text (flags, ``--set``), TOML or JSON, written as text, and checked by type."""

from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class ValueType:
    """Type of a setting, read from its type hint: the type of one value, and whether there may be several."""

    kind: Any  # bool, int, float or str
    words: tuple[str, ...] = ()  # the only allowed texts; empty: any
    several: bool = False  # a tuple of values
    optional: bool = False  # may be None

    @classmethod
    def of(cls, hint: Any) -> "ValueType":
        """Return the ValueType of a type hint, such as ``tuple[float, ...]`` or a ``Literal`` of words."""
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        if NoneType in get_args(hint):
            inner = cls.of(kinds[0])
            return cls(inner.kind, inner.words, inner.several, optional=True)
        if get_origin(hint) is tuple:
            inner = cls.of(kinds[0])
            return cls(inner.kind, inner.words, several=True)
        return cls(str, tuple(kinds)) if get_origin(hint) is Literal else cls(hint)

    def parse_one(self, text: str, name: str) -> Any:
        """Parse a single value of this type from text; errors about a wrong text begin with the setting's ``name``."""
        try:
            return {"true": True, "false": False}[text.lower()] if self.kind is bool else self.kind(text)
        except (KeyError, ValueError):
            raise InputError(f"{name}: {text!r}; {_WORDS[self.kind]} is needed") from None


def value_types(group: type) -> dict[str, ValueType]:
    """Return {field name: ValueType} for all fields of a settings dataclass."""
    if group not in _KNOWN:
        hints = get_type_hints(group)
        _KNOWN[group] = {item.name: ValueType.of(hints[item.name]) for item in fields(group)}
    return _KNOWN[group]


_KNOWN: dict[type, dict[str, ValueType]] = {}


def parse_value(text: str, of: ValueType, name: str) -> Any:
    """Parse a setting's value from text: ``0.9``, ``true``, ``none``, or ``3,5`` for several values.

    Raises
    ------
    InputError
        If the text is no value of this type; ``name`` is the setting's in the message.
    """
    if of.optional and text.lower() == "none":
        return None
    texts = [item.strip() for item in text.strip("[] ").split(",") if item.strip()] if of.several else [text]
    for word in texts if of.words else ():
        choose(name, word, list(of.words))
    values = tuple(of.parse_one(item, name) for item in texts)
    return values if of.several else values[0]


def value_text(value: Any) -> str:
    """Return a setting's value as text that :func:`parse_value` reads."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(value_text, value))
    return repr(value) if isinstance(value, float) else str(value)


def fitted(value: Any, of: ValueType, name: str) -> Any:
    """Convert a value read from TOML or JSON to the type of its setting: lists to tuples, 1 to 1.0 for a float.

    Raises
    ------
    InputError
        If the value has another type; ``name`` is the setting's in the message. Allowed words are not checked here.
    """
    if of.several and not isinstance(value, list | tuple):
        raise InputError(f"{name} is {value!r}; a list is needed")
    values = []
    for item in value if of.several else [value]:
        if type(item) is not of.kind and not (of.kind is float and type(item) is int):
            raise InputError(f"{name} is {item!r}; {_WORDS[of.kind]} is needed")
        values.append(of.kind(item))
    return tuple(values) if of.several else values[0]


def check_fields(settings: object, *needed: str) -> None:
    """Raise an InputError if a settings field has a word that is not allowed, a repeated value, or no needed value."""
    for name, of in value_types(type(settings)).items():
        value = getattr(settings, name)
        if of.several and (value or name in needed):
            check_some(name, value)
        for word in (() if value is None else value if of.several else (value,)) if of.words else ():
            choose(name, word, list(of.words))


def check_least(settings: object, **least: int) -> None:
    """Raise an InputError if a field of ``settings`` is smaller than its least value in ``least``; None is allowed."""
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise InputError(f"{name}: {value}; at least {bound} is needed")


def check_some(name: str, values: tuple[object, ...]) -> None:
    """Raise an InputError if ``values`` of the setting ``name`` is empty or contains a value twice."""
    if not values:
        raise InputError(f"{name}: nothing given; at least one is needed")
    if len(set(values)) < len(values):
        raise InputError(f"{name}: {' '.join(map(str, values))}; each may be given once")
