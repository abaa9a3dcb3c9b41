"""InputError, the exception for wrong input."""

__all__ = ["InputError", "require"]


class InputError(ValueError):
    """Wrong input. The message names the thing, its value and the allowed values, in one line.

    The command line prints it without a traceback and exits with code 2.
    """


def require(name: str, value: object, fine: bool, allowed: str) -> None:
    """Raise an :class:`InputError` that names a setting, its value and the allowed values, unless ``fine``."""
    if not fine:
        raise InputError(f"{name}: {value}; allowed is {allowed}")
