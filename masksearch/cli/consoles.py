"""The console that commands print to."""

import sys

from rich.console import Console

__all__ = ["open_console"]


def open_console() -> Console:
    """Return a console as wide as the terminal; 150 columns for a log or a pipe, so that rows are not broken."""
    return Console() if sys.stdout.isatty() else Console(width=150)
