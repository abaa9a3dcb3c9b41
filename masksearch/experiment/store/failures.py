"""Errors of a sweep's cells on disk: one sentence per failed cell; the other cells continue."""

import traceback
from collections.abc import Iterable
from pathlib import Path

from masksearch.experiment.cell import Cell
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json, write_bytes, write_json

__all__ = ["clear_failure", "failures_of", "record_failure"]

_FILE, _TRACE = "failed.json", "failed.txt"


def record_failure(path: Path, cell: Cell, error: Exception) -> str:
    """Write the error that ended a run of a sweep (cell) to the run's folder; return the error as one sentence.

    Of errors that are not an :class:`InputError`, the traceback is written beside it.
    """
    folder = path / cell.folder
    sentence = str(error)
    if not isinstance(error, InputError):
        about = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
        sentence = f"{about} (see {folder / _TRACE})"
        write_bytes(folder / _TRACE, "".join(traceback.format_exception(error)).encode())
    write_json(folder / _FILE, {"cell": cell.label, "error": sentence})
    return sentence


def clear_failure(folder: Path) -> None:
    """Remove the error that an earlier attempt left in the folder of a run."""
    for name in (_FILE, _TRACE):
        (folder / name).unlink(missing_ok=True)


def failures_of(folders: Iterable[Path]) -> dict[str, str]:
    """Return {name of a failed run: its error in one sentence}, read from the folders of a sweep's runs."""
    found = {}
    for folder in folders:
        if (folder / _FILE).exists():
            content = read_json(folder / _FILE)
            found[str(content["cell"])] = str(content["error"])
    return found
