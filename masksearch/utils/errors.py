"""InputError, the exception for wrong input."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Wrong input. The message names the thing, its value and the allowed values, in one line.

    The command line prints it without a traceback and exits with code 2.
    """
