"""Arguments of command lines, read by tyro into dataclasses of texts; every mistake is an error of one line."""

from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import NoReturn, TypeVar, get_type_hints

import tyro

from masksearch.utils.errors import InputError

Kind = TypeVar("Kind")

Texts = tuple[str, ...]
"""Values of a flag as they are typed; settings and commands convert them, with their own messages of errors."""


def read_arguments(kind: type[Kind], args: Sequence[str], prog: str) -> Kind:
    """Parse a command's arguments into a dataclass that has a field for each flag and positional argument.

    Raises
    ------
    InputError
        For an unknown flag, or a flag without its value.
    SystemExit
        After ``--help``.
    """
    if {"-h", "--help"} & set(args):
        tyro.cli(kind, prog=prog, args=["--help"])
    given, unknown = read_known(kind, args, prog)
    if unknown:
        refuse(unknown, kind, args, f"{prog} --help")
    return given


def read_known(kind: type[Kind], args: Sequence[str], prog: str) -> tuple[Kind, list[str]]:
    """Parse the arguments of a command that belong to a dataclass's fields; return the dataclass and other arguments.

    Raises
    ------
    InputError
        For a flag without its value.
    """
    given, unknown = tyro.cli(kind, prog=prog, args=list(args), add_help=False, return_unknown_args=True)
    for name, flag in given_flags(args).items():
        if getattr(given, name, None) in ((), ((),)):  # ((),): of a flag that may be repeated
            raise InputError(f"{flag}: nothing given; give {flag} {metavar(kind, name)}")
    return given, unknown


def takes(metavar: str, text: str | None = None) -> object:
    """Return tyro's annotation of a flag that has a value: the word for the value in the help, and the help text."""
    return tyro.conf.arg(metavar=metavar, help=text, help_behavior_hint="")


def metavar(kind: type, name: str) -> str:
    """Return the word that stands for a flag's value in the help, such as ``NAME``; "" for a flag without a value."""
    notes = getattr(get_type_hints(kind, include_extras=True)[name], "__metadata__", ())
    return next((note.metavar for note in notes if hasattr(note, "metavar")), "")


def given_flags(args: Sequence[str]) -> dict[str, str]:
    """Return the flags among ``args`` as {field name: flag as typed}, such as {"no_download": "--no-download"}."""
    flags = (arg.partition("=")[0] for arg in args if arg.startswith("--"))
    return {flag[2:].replace("-", "_"): flag for flag in flags}


def one(values: Texts, flag: str) -> str | None:
    """Return the value of a command-line flag from the texts given for the flag; None if no text is given.

    Raises
    ------
    InputError
        If there are several values.
    """
    if len(values) > 1:
        raise InputError(f"{flag}: {' '.join(values)}; one value is needed")
    return values[0] if values else None


def refuse(unknown: Sequence[str], kind: type, args: Sequence[str], helps: str) -> NoReturn:
    """Raise an InputError for the first unknown command-line argument; its message suggests the nearest known flag."""
    flag = unknown[0].partition("=")[0]
    typed = [arg for arg in args if arg.startswith("--") and arg.endswith(f"={unknown[0]}")]
    if typed:
        raise InputError(f"{typed[0].partition('=')[0]}: takes no value, but got {unknown[0]!r}")
    if not flag.startswith("-"):
        raise InputError(f"{flag!r} is no flag: flags begin with --, and {helps} lists them")
    flags = [f"--{item.name.replace('_', '-')}" for item in fields(kind)]
    near = get_close_matches(flag.replace("_", "-"), flags, n=1)
    raise InputError(f"unknown flag {flag}: {f'did you mean {near[0]}? ' if near else ''}{helps} lists all flags")
