"""Checks of one group of settings by the types and least values of its fields."""

from masksearch.experiment.settings.text_values import value_types
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["check_fields", "check_least", "check_some"]


def check_fields(settings: object, *needed: str) -> None:
    """Raise an InputError for a word that a field does not allow, a repeated value, or an empty ``needed`` field."""
    for name, of in value_types(type(settings)).items():
        value = getattr(settings, name)
        if of.several and (value or name in needed):
            check_some(name, value)
        for word in (() if value is None else value if of.several else (value,)) if of.words else ():
            choose(name, word, list(of.words))


def check_least(settings: object, **least: int) -> None:
    """Raise an InputError for a field below its least value; a field that is None passes."""
    for name, bound in least.items():
        value = getattr(settings, name)
        if value is not None and value < bound:
            raise InputError(f"{name}: {value}; at least {bound} is needed")


def check_some(name: str, values: tuple[object, ...]) -> None:
    """Raise an InputError if ``values`` is empty or contains a value twice."""
    if not values:
        raise InputError(f"{name}: nothing given; at least one is needed")
    if len(set(values)) < len(values):
        raise InputError(f"{name}: {' '.join(map(str, values))}; each may be given once")
