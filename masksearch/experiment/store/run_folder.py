"""Run folders: one process at a time, settings compared on reopening, states that survive a kill."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from masksearch.utils import locks
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json, write_json

__all__ = ["RunFolder", "is_done", "locked"]


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a run folder for this thread of this process, as :func:`masksearch.utils.locks.locked` holds a file.

    Raises
    ------
    InputError
        If another process holds the folder and ``wait`` is False, or if the folder can't be written to.
    """
    with locks.locked(folder / ".lock", f"run folder {folder}", "wait for it, or use another --name", wait=wait):
        yield


class RunFolder:
    """The folder of one run: ``settings.json``, ``status.json``, and what the run writes.

    Parameters
    ----------
    path : Path
        Made if it isn't there.
    identity : dict
        What decides the run's result, as plain values. A folder with another identity is refused: then the hash in its
        name has collided, or folders were moved by hand.
    settings : dict, optional
        All settings that decide the result, those at their default included, for readers of the folder.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> None:
        self.path = path
        file = path / "settings.json"
        as_read = json.loads(json.dumps(identity))  # a tuple reads back as a list
        if file.exists() and read_json(file).get("identity") != as_read:
            raise InputError(f"run folder {path}: its settings.json belongs to another run; move the folder away")
        if not file.exists():
            write_json(file, {"identity": identity, "settings": settings or {}})

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def set_status(self, step: str) -> None:
        """Write which step of the run begins; ``done`` when everything is on disk."""
        write_json(self.path / "status.json", {"stage": step})

    @property
    def is_done(self) -> bool:
        """Whether everything of this run is on disk."""
        return is_done(self.path)


def is_done(path: Path) -> bool:
    """Whether the run in the folder ``path``, if there is one, is finished."""
    status = path / "status.json"
    return status.exists() and read_json(status)["stage"] == "done"
