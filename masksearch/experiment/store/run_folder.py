"""Run folders: one process at a time, settings compared on reopening, states that survive a kill."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json, write_json

__all__ = ["RunFolder", "is_done", "locked"]


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process. The system frees it when the process ends, however it ends.

    If another process holds it, ``wait`` for that one to end.

    Raises
    ------
    InputError
        If another process holds it and this one doesn't wait, or it can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=-1 if wait else 0)
        lock.acquire()
    except Timeout:
        raise InputError(
            f"run folder {folder}: another process is working in it; wait for it, or use another --name"
        ) from None
    except OSError as error:
        raise InputError(f"run folder {folder}: can't be written to ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


class RunFolder:
    """The folder of one run: ``settings.json``, ``status.json``, and what the run writes.

    Parameters
    ----------
    path : Path
        Made if it isn't there.
    identity : dict
        What decides the run's result. A folder with another one is refused: then its name's hash has collided, or
        somebody has moved folders about.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        settings = path / "settings.json"
        as_read = json.loads(json.dumps(identity))  # a tuple reads back as a list
        if settings.exists() and read_json(settings) != as_read:
            raise InputError(f"run folder {path}: its settings.json tells of another run; move it away")
        if not settings.exists():
            write_json(settings, identity)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def enter(self, stage: str) -> None:
        """Note that a stage begins."""
        write_json(self.path / "status.json", {"stage": stage})

    @property
    def is_done(self) -> bool:
        """Whether everything of this run is on disk."""
        return is_done(self.path)


def is_done(path: Path) -> bool:
    """Whether the run in the folder ``path``, if there is one, is finished."""
    status = path / "status.json"
    return status.exists() and read_json(status)["stage"] == "done"
