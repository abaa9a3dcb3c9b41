"""The command line."""

from masksearch.cli.commands import main

__all__ = ["main"]
