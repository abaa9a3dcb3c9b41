"""Tables of components (criteria, searchers, models, ...) by name; errors for unknown names suggest the nearest."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import entry_points
from typing import ClassVar, Generic, TypeVar

from masksearch.utils.errors import InputError

GROUP = "masksearch"
"""Name of the entry-point group in which installed packages register the modules that add rows to the tables."""

Row = TypeVar("Row")


def choose(kind: str, name: str, names: list[str]) -> str:
    """Return ``name`` if it is among ``names``; else raise an error that suggests the most similar name.

    Raises
    ------
    InputError
        If ``name`` is not in ``names``.
    """
    if isinstance(name, str) and name in names:
        return name
    if not isinstance(name, str):
        raise InputError(f"{kind}: a {type(name).__name__}; allowed are the names {', '.join(names)}")
    lower = {other.lower(): other for other in names}
    near = [lower[found] for found in get_close_matches(name.lower(), lower, n=1, cutoff=0.55)]
    near = near or [other for other in names if len(name) > 1 and name.lower() in other.lower()]
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"unknown {kind} {name!r}: {hint}there are {', '.join(names)}")


class Table(Mapping[str, Row], Generic[Row]):
    """Table of components of one kind, such as searchers or models: a mapping {component's name: its definition}.

    An unknown name raises an error with the nearest name and all names. The command line, ``--list``, the contract
    tests and the benchmarks read these tables, so that a new component only needs a new row.

    Parameters
    ----------
    kind : str
        Kind of the rows, for messages: ``"searcher"``, ``"model"``.
    rows : mapping
        Name -> row.
    removed : mapping, optional
        Name of a row that earlier versions had -> one sentence for the error message.
    """

    discovered: ClassVar[bool] = False
    """Whether the plugins of installed packages have been loaded."""

    def __init__(self, kind: str, rows: Mapping[str, Row], removed: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._rows = dict(rows)
        self._removed = dict(removed or {})
        self._added: dict[str, str] = {}

    def add(self, name: str, row: Row, digest: str) -> None:
        """Add the definition of a plugin's component to the table; ``digest`` is the hash of the plugin's file.

        Raises
        ------
        InputError
            If the table has a row of that name.
        """
        if name in self._rows:
            raise InputError(f"{self.kind} {name!r}: there is one already; choose another name")
        self._rows[name] = row
        self._added[name] = digest

    @staticmethod
    def discover() -> None:
        """Load the plugins of installed packages, once per process; each plugin adds its components to the tables.

        Called when a name is missing and before names are listed.
        """
        if not Table.discovered:
            Table.discovered = True
            if entry_points(group=GROUP):
                import_module("masksearch.plugin").load_installed()

    def added(self, name: str) -> str | None:
        """Return the hash of the plugin file that added a component; None for masksearch's own components."""
        return self._added.get(name)

    @contextmanager
    def scoped(self) -> Iterator[None]:
        """Context manager that removes components of plugins from the table, and puts them back at its end."""
        rows, added = self._rows, self._added
        self._rows, self._added = {name: row for name, row in rows.items() if name not in added}, {}
        try:
            yield
        finally:
            self._rows, self._added = rows, added

    def check(self, name: str, kind: str | None = None) -> None:
        """Raise an InputError unless the table has a component ``name``; ``kind`` names its kind in the message.

        Raises
        ------
        InputError
            For a removed row with its sentence; for other names with the nearest name and all names.
        """
        if not isinstance(name, str) or name not in self:
            if isinstance(name, str) and name in self._removed:
                raise InputError(f"{kind or self.kind} {name!r}: {self._removed[name]}")
            choose(kind or self.kind, name, list(self))

    def __getitem__(self, name: str) -> Row:
        self.check(name)
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        self.discover()
        return iter(self._rows)

    def __len__(self) -> int:
        self.discover()
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        if name not in self._rows:
            self.discover()
        return name in self._rows

    def __repr__(self) -> str:
        return f"Table({self.kind!r}, {list(self._rows)})"
