"""Parsers of command lines, whose mistakes are errors of one line."""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any, NoReturn

from masksearch.utils.errors import InputError

__all__ = ["Parser"]


class Parser(ArgumentParser):
    """Parser of one command's arguments; its help is 100 columns wide."""

    def __init__(self, prog: str, *, indent: int = 30, **options: Any) -> None:
        formatter = partial(RawDescriptionHelpFormatter, width=100, max_help_position=indent)
        super().__init__(prog=prog, formatter_class=formatter, allow_abbrev=False, **options)

    def parse(self, args: Sequence[str]) -> Namespace:
        """Return the values of all flags; flags may contain ``_`` in place of ``-``.

        Raises
        ------
        InputError
            For an unknown flag, or a wrong number of values.
        SystemExit
            After ``--help``.
        """
        given, unknown = self.parse_known_intermixed_args([self._dashed(arg) for arg in args])
        if unknown:
            self.refuse(unknown)
        return given

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Raise an InputError for the first argument that is no flag and no flag's value."""
        flag = unknown[0].partition("=")[0]
        if not flag.startswith("-"):
            raise InputError(f"{flag!r} is no flag: flags begin with --, and {self.prog} --help lists them")
        near = get_close_matches(flag, self._option_string_actions, n=1)
        raise InputError(f"unknown flag {flag}: " + (f"did you mean {near[0]}? " if near else "") + self.where_listed)

    @property
    def where_listed(self) -> str:
        """Sentence that names the command that lists all flags."""
        return f"{self.prog} --help lists all flags"

    def error(self, message: str) -> NoReturn:
        """Raise an InputError with argparse's message; for a flag without its value, with the values to give."""
        flag, _, reason = message.removeprefix("argument ").partition(": ")
        if reason.startswith("expected "):
            reason = f"nothing given; give {flag} {self._option_string_actions[flag].metavar}"
        raise InputError(f"{flag}: {reason.replace('ignored explicit argument', 'takes no value, but got')}")

    def _dashed(self, arg: str) -> str:
        """The argument, with ``-`` in place of ``_`` if it is a flag of this parser."""
        flag, equals, value = arg.partition("=")
        dashed = flag.replace("_", "-")
        return f"{dashed}{equals}{value}" if dashed in self._option_string_actions else arg
