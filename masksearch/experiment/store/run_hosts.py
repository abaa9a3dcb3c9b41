"""Places where a sweep's cell ran: ``places.json`` in the cell's folder, beside the results that are equal anywhere."""

import platform
from dataclasses import dataclass
from multiprocessing import current_process
from pathlib import Path

import msgspec
import torch

from masksearch.utils.files import read_json, write_json
from masksearch.utils.integrity import refusing

_FILE = "places.json"
_REMEDY = "remove this file; no result depends on it"


@dataclass(frozen=True)
class Place:
    """Where a run was executed: the machine's name, the worker process's name, and the number of CPU threads."""

    host: str
    worker: str
    threads: int


def record_place(folder: Path) -> None:
    """Note in a run's ``folder`` which machine and process execute the run, and with how many CPU threads."""
    here = Place(platform.node(), current_process().name, torch.get_num_threads())
    places = places_of(folder)
    if here not in places[-1:]:
        write_json(folder / _FILE, {"places": msgspec.to_builtins([*places, here])})


def places_of(folder: Path) -> list[Place]:
    """Return the machines and processes that have executed the run in ``folder``, in order of time.

    Raises
    ------
    InputError
        If the file is damaged.
    """
    file = folder / _FILE
    if not file.exists():
        return []
    content = read_json(file, {"places": list}, _REMEDY)
    with refusing(file, _REMEDY):
        return msgspec.convert(content["places"], list[Place])
