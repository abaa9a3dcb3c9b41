"""Command lines read by tyro, with every mistake in one line."""

import io
import os
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar
from unittest.mock import patch

import tyro

from masksearch.utils.errors import InputError

__all__ = ["read_arguments", "read_known"]

Kind = TypeVar("Kind")

_PLAIN = (tyro.conf.OmitSubcommandPrefixes,)


def read_arguments(kind: type[Kind], args: Sequence[str], prog: str) -> Kind:
    """Read all arguments into a dataclass.

    Raises
    ------
    InputError
        For an unknown flag or a value of another type, in one line.
    SystemExit
        After ``--help``.
    """
    if {"-h", "--help"} & set(args):
        return tyro.cli(kind, prog=prog, args=["--help"])
    return _read(kind, args, prog)


def read_known(kind: type[Kind], args: Sequence[str], prog: str) -> Kind:
    """Read the arguments that a dataclass has fields for, and ignore all others.

    Raises
    ------
    InputError
        For a value of another type, in one line.
    """
    known, _ = _read(kind, args, prog, return_unknown_args=True, add_help=False)
    return known


def _read(kind: Any, args: Sequence[str], prog: str, **options: Any) -> Any:
    errors = io.StringIO()
    try:
        # Wide, so that no message is broken over lines.
        with patch.dict(os.environ, {"COLUMNS": "10000"}), redirect_stderr(errors):
            return tyro.cli(kind, prog=prog, args=list(args), config=_PLAIN, **options)
    except SystemExit:
        raise InputError(_in_one_line(errors.getvalue())) from None


def _in_one_line(box: str) -> str:
    """The text of tyro's box of an error: the mistake, and the flag's own help, or the flags with similar names."""
    parts = [""]
    for line in box.splitlines()[1:]:  # the first is the box's title
        text = line.strip(" │")
        if re.fullmatch("[─╰╯-]+", text):  # a rule; of dashes, where the terminal has no others
            parts.append("")
        else:
            parts[-1] += f" {text}"
    message, *notes = (" ".join(part.split()) for part in parts if part.strip())
    # For a flag with several types, tyro gives the error of each type.
    message = re.sub(
        r"no type matching (\S+) could be instantiated from \[(.*?)\]\. Got errors: .*", r"\2 is no \1", message
    )
    for note in notes:
        note = note.removeprefix("Argument helptext: ")
        if note.startswith("Perhaps you meant: "):
            note = f"perhaps you meant {' or '.join(re.findall(r'--[a-z][a-z-]*', note)[:2])}"
        if not note.startswith("For full helptext"):
            message += f"; {note}"
    return message.replace("{None}|", "")  # of flags that may be left out
