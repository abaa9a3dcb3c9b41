"""Rows from a user's own module: components that are in no table of the package, asked for by ``--plugin``."""

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from masksearch.criteria import CRITERIA, Criterion
from masksearch.data import DATASETS, DatasetRow
from masksearch.models import MODELS, ModelRow
from masksearch.schedules import SCHEDULES, Schedule
from masksearch.scoring import OBJECTIVES
from masksearch.scoring.objectives import Objective
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.supermasks import SUPERMASKS, Supermask
from masksearch.utils.errors import InputError
from masksearch.utils.registry import Table, choose

__all__ = ["ROWS", "load_plugins"]

ROWS = "MASKSEARCH"
"""What the dictionary in a user's module is called."""


class _Kind(NamedTuple):
    table: Table[Any]
    row: type | None  # None: a function


_KINDS = {
    "criteria": _Kind(CRITERIA, Criterion),
    "searchers": _Kind(SEARCHERS, None),
    "supermasks": _Kind(SUPERMASKS, Supermask),
    "schedules": _Kind(SCHEDULES, Schedule),
    "models": _Kind(MODELS, ModelRow),
    "datasets": _Kind(DATASETS, DatasetRow),
    "objectives": _Kind(OBJECTIVES, Objective),
}
_METHODS = ("searchers", "criteria", "supermasks")  # stand side by side in --methods

_loaded: set[Path] = set()  # files whose rows are in the tables


def load_plugins(names: Iterable[str]) -> None:
    """Add the rows of users' modules to the tables; what is there already stays.

    A module says what it adds in one dictionary, by table and by name::

        MASKSEARCH = {"criteria": {"mine": Criterion(mine, "what it is")}, "searchers": {"hill": Hill}}

    The tables are ``criteria`` (rows are :class:`~masksearch.criteria.Criterion`), ``searchers`` (functions without
    arguments that return a searcher), ``supermasks``, ``schedules``, ``models``, ``datasets`` and ``objectives`` (rows
    of their tables' types).

    Parameters
    ----------
    names : iterable of str
        Dotted names of modules, looked for in the current folder, too; or paths of ``.py`` files.

    Raises
    ------
    InputError
        If there is no such module, it fails, says nothing, or says what no table takes; module and line are named, and
        no table has changed.
    """
    for name in names:
        path = _path_of(name)
        if path in _loaded:
            continue
        module = _imported(name, path)
        rows = _checked(module, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        for kind, own in rows.items():
            for row, value in own.items():
                _KINDS[kind].table.add(row, value, digest)
        _loaded.add(path)


def _path_of(name: str) -> Path:
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"plugin {name}: no such file; a .py file, or a module's dotted name, is needed")
        return path.resolve()
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        raise InputError(f"plugin {name!r}: a module's dotted name, or the path of a .py file, is needed")
    with _current_folder(), _telling(f"plugin {name}"):
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise InputError(f"plugin {name}: no such module here or among those installed; a path must end in .py")
    return Path(found.origin).resolve()


def _imported(name: str, path: Path) -> ModuleType:
    with _current_folder(), _telling(f"plugin {name}", path):
        if not name.endswith(".py"):
            return importlib.import_module(name)
        # Under a name of its own: a file that is called as a module of somebody else's must not stand in its place.
        own = f"masksearch_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        spec = importlib.util.spec_from_file_location(own, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[own] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[own]
            raise
        return module


def _checked(module: ModuleType, path: Path) -> Mapping[str, Mapping[str, Any]]:
    """The rows of a module, if the tables can take all of them."""
    rows = getattr(module, ROWS, None)
    if not isinstance(rows, Mapping):
        raise InputError(f'plugin {path.name}: has no dictionary {ROWS}; {ROWS} = {{"criteria": {{...}}}} is needed')
    lines = _lines(path)
    taken = {name for kind in _METHODS for name in _KINDS[kind].table}
    for kind, own in rows.items():
        where = f"plugin {path.name}, line {lines.get(kind, 1)}"
        choose(f"table in {where}", str(kind), list(_KINDS))
        if not isinstance(own, Mapping):
            raise InputError(f"{where}: {kind} is a {type(own).__name__}; a dictionary of rows by name is needed")
        for name, row in own.items():
            where = f"plugin {path.name}, line {lines.get(name, 1)}"
            if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
                raise InputError(f"{where}: {name!r} is no name; letters, digits and _ are allowed")
            if name in _KINDS[kind].table or (kind in _METHODS and name in taken):
                raise InputError(f"{where}: there is a {_KINDS[kind].table.kind} {name!r} already; choose another name")
            if kind in _METHODS:
                taken.add(name)
            _check_row(kind, name, row, where, path)
    return rows


def _check_row(kind: str, name: str, row: Any, where: str, path: Path) -> None:
    wanted = _KINDS[kind].row
    if wanted is not None and not isinstance(row, wanted):
        raise InputError(f"{where}: {name} is a {type(row).__name__}; a {wanted.__name__} is needed")
    if wanted is None and not callable(row):
        raise InputError(f"{where}: {name} is a {type(row).__name__}; a function is needed")
    if kind == "searchers":
        _check_searcher(name, row, where, path)


def _check_searcher(name: str, make: Callable[[], Any], where: str, path: Path) -> None:
    with _telling(f"{where}: {name}", path):
        one, other = make(), make()
    if not isinstance(one, Searcher):
        raise InputError(f"{where}: {name} makes a {type(one).__name__}; a subclass of searchers.Searcher is needed")
    if repr(one) != repr(other):
        # A run is found again by what its searcher's settings look like.
        raise InputError(f"{where}: {name} has another repr each time; make {type(one).__name__} a dataclass")


def _lines(path: Path) -> dict[Any, int]:
    """The last lines on which texts stand in a file as keys of dictionaries."""
    tree = ast.parse(path.read_text())
    keys = [key for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys]
    return {key.value: key.lineno for key in keys if isinstance(key, ast.Constant)}


@contextmanager
def _current_folder() -> Iterator[None]:
    """Modules in the current folder can be imported, as they can in ``python -m``."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


@contextmanager
def _telling(what: str, path: Path | None = None) -> Iterator[None]:
    """What a user's code raises, in one line that names the line it comes from."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        for frame in traceback.extract_tb(error.__traceback__):
            if path is not None and Path(frame.filename).resolve() == path:
                line = frame.lineno
        at = f", line {line}" if line and ", line" not in what else ""
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"{what}{at}: {type(error).__name__}: {reason}") from None
