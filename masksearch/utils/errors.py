"""InputError, the exception for wrong input of a user."""

__all__ = ["InputError", "require"]


class InputError(ValueError):
    """Exception for wrong input of a user; its one-line message names the thing, its value and the allowed values.

    The command line prints it without a traceback and exits with code 2.
    """


def require(name: str, value: object, fine: bool, allowed: str) -> None:
    """Raise an :class:`InputError` with a setting's name, value and allowed values, unless ``fine`` is True."""
    if not fine:
        raise InputError(f"{name}: {value}; allowed is {allowed}")
