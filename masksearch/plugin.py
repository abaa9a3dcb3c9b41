"""Plugins: methods, networks and data sets of other modules, from ``--plugin`` or of installed packages."""

import hashlib
import importlib
import re
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.models import MODELS
from masksearch.schedules import SCHEDULES
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.supermasks import SUPERMASKS
from masksearch.tasks import TASKS
from masksearch.utils import user_functions
from masksearch.utils.errors import InputError, named_first_line
from masksearch.utils.registry import GROUP, Table, choose

__all__ = ["ROWS", "TABLES", "load_installed", "load_plugins", "scoped"]

ROWS = "MASKSEARCH"
"""Name of the dictionary of rows in a plugin's module."""

TABLES: Mapping[str, Table[Any]] = {
    "criteria": CRITERIA,
    "searchers": SEARCHERS,
    "supermasks": SUPERMASKS,
    "schedules": SCHEDULES,
    "models": MODELS,
    "datasets": DATASETS,
    "objectives": OBJECTIVES,
    "tasks": TASKS,
}
"""Name of a table in a plugin's dictionary -> the table."""
_METHODS = ("searchers", "criteria", "supermasks")  # --methods takes names of all three, so a name has one row in them

_OURS = (__file__, user_functions.__file__)  # left out of tracebacks
_loaded: set[Path] = set()  # files whose rows are in the tables


def load_plugins(names: Iterable[str]) -> None:
    """Import plugin modules, and register the methods, networks, data sets and objectives that the modules define.

    A module lists its rows in one dictionary, by table and by name::

        MASKSEARCH = {"criteria": {"mine": Criterion(mine, "source")}, "searchers": {"hill": Hill}}

    :data:`TABLES` has the names of the tables. Rows of ``searchers`` are functions without arguments that return a
    searcher; all others have the row type of their table.

    Parameters
    ----------
    names : iterable of str
        Paths of ``.py`` files, or dotted names of modules in the current folder or among the installed ones.

    Raises
    ------
    InputError
        If a module is missing, raises an exception, exits, has no rows, or has a row of a wrong type. No table changes.
    """
    for name in names:
        if Path(name).resolve() in _loaded:
            continue
        if name.endswith(".py") and not Path(name).is_file():
            raise InputError(f"plugin {name}: no such file; a .py file, or a module's dotted name, is needed")
        with _in_one_line(f"plugin {name}"):
            if name.endswith(".py"):
                module = user_functions.import_file(Path(name).resolve(), "masksearch_plugin_")
            else:
                module = _of_name(name)
        _add_rows(module, f"plugin {name}")


def load_installed() -> None:
    """Register methods, networks, data sets and objectives of installed packages with a ``masksearch`` entry point.

    Tables call this function once, when a name is missing or when their names are listed. A package with an error
    causes a warning, and its rows are left out.
    """
    for entry in entry_points(group=GROUP):
        where = f"plugin {entry.name} of package {entry.dist.name if entry.dist else entry.value}"
        try:
            with _in_one_line(where):
                module = entry.load()
            _add_rows(module, where)
        except InputError as error:
            warnings.warn(f"{error}; its rows are left out", stacklevel=2)


@contextmanager
def scoped() -> Iterator[None]:
    """Context manager that unregisters the components of all plugins; on exit, they are registered as before."""
    loaded, discovered = set(_loaded), Table.discovered
    _loaded.clear()
    Table.discovered = False
    try:
        with ExitStack() as stack:
            for table in TABLES.values():
                stack.enter_context(table.scoped())
            yield
    finally:
        _loaded.clear()
        _loaded.update(loaded)
        Table.discovered = discovered


def _of_name(name: str) -> ModuleType:
    """The module of a dotted name, in the current folder or installed, as in ``python -m``."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def _add_rows(module: ModuleType, where: str) -> None:
    """Add all rows of a module, or raise an error and add none."""
    rows, file = getattr(module, ROWS, None), getattr(module, "__file__", None)
    if not isinstance(rows, Mapping) or file is None:
        raise InputError(f'{where}: has no dictionary {ROWS}; {ROWS} = {{"criteria": {{...}}}} is needed')
    path = Path(file).resolve()
    if path in _loaded:
        return
    methods = [name for kind in _METHODS for name in TABLES[kind]]
    for kind, own in rows.items():
        choose(f"table in {where}", str(kind), list(TABLES))
        if not isinstance(own, Mapping):
            raise InputError(f"{where}: {kind} is a {type(own).__name__}; a dictionary of rows by name is needed")
        for name, row in own.items():
            if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
                raise InputError(f"{where}: {kind}: {name!r} is no name; letters, digits and _ are allowed")
            if name in (methods if kind in _METHODS else TABLES[kind]):
                raise InputError(f"{where}: there is a {TABLES[kind].kind} {name!r} already; rename the row")
            methods += [name] if kind in _METHODS else []
            _check_row(kind, row, f"{where}: {name}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for kind, own in rows.items():
        for name, row in own.items():
            TABLES[kind].add(name, row, digest)
    _loaded.add(path)


def _check_row(kind: str, row: Any, where: str) -> None:
    wanted = type(next(iter(TABLES[kind].values())))
    if kind != "searchers":
        if not isinstance(row, wanted):
            raise InputError(f"{where} is a {type(row).__name__}; a {wanted.__name__} is needed")
        return
    if not callable(row):
        raise InputError(f"{where} is a {type(row).__name__}; a function is needed")
    with _in_one_line(where):
        one, other = row(), row()
    if not isinstance(one, Searcher):
        raise InputError(f"{where} makes a {type(one).__name__}; a subclass of searchers.Searcher is needed")
    if one.identity() != other.identity():
        raise InputError(f"{where} makes searchers with other settings each time; they must be equal")


@contextmanager
def _in_one_line(where: str) -> Iterator[None]:
    """Turn an exception or exit of a plugin's code into an InputError of one line, with the line in the plugin."""
    try:
        yield
    except (Exception, SystemExit) as error:
        every = traceback.extract_tb(error.__traceback__)
        frames = [frame for frame in every if frame.filename not in _OURS and "importlib" not in frame.filename]
        lines = [frame.lineno for frame in frames if frame.filename == frames[0].filename]
        if isinstance(error, SyntaxError) and not frames:
            lines = [error.lineno]
        at = f", line {lines[-1]}" if lines else ""
        raise InputError(f"{where}{at}: {named_first_line(error)}") from None
