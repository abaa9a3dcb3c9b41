"""The one exception that means: what you gave us can't be used, and here is what can."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Wrong input. The message names the thing, its value and what is allowed, in one line.

    The command line prints it without a traceback and exits with code 2.
    """
