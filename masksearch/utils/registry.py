"""A table: the catalogue of one kind of component, by name."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Generic, TypeVar

from masksearch.utils.errors import InputError

__all__ = ["Table", "choose"]

Row = TypeVar("Row")


def choose(kind: str, name: str, names: list[str]) -> str:
    """Return ``name`` if it is among ``names``; else raise an error that says which one is nearest.

    Raises
    ------
    InputError
        If ``name`` is not in ``names``.
    """
    if name in names:
        return name
    near = get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"unknown {kind} {name!r}: {hint}there are {', '.join(names)}")


class Table(Mapping[str, Row], Generic[Row]):
    """Rows by name, in the order they were written down.

    Looking up a name that isn't there raises an error with the nearest name and all names. The command line,
    ``--list``, the contract tests and the benchmarks read these tables, so that a new row is all a component needs.

    Parameters
    ----------
    kind : str
        What a row is, for messages: ``"searcher"``, ``"model"``.
    rows : mapping
        Name -> row.
    removed : mapping, optional
        Name of a row that earlier versions had -> one sentence for the error message.
    """

    def __init__(self, kind: str, rows: Mapping[str, Row], removed: Mapping[str, str] | None = None) -> None:
        self.kind = kind
        self._rows = dict(rows)
        self._removed = dict(removed or {})
        self._added: dict[str, str] = {}

    def add(self, name: str, row: Row, digest: str) -> None:
        """Add a row of a user's module; ``digest`` is of the file that it stands in.

        Raises
        ------
        InputError
            If there is a row of that name.
        """
        if name in self._rows:
            raise InputError(f"{self.kind} {name!r}: there is one already; choose another name")
        self._rows[name] = row
        self._added[name] = digest

    def added(self, name: str) -> str | None:
        """The digest of the file that a row comes from; None for the package's own rows."""
        return self._added.get(name)

    def check(self, name: str, kind: str | None = None) -> None:
        """Raise an error unless the table has a row of this name; ``kind`` replaces the table's own in the message.

        Raises
        ------
        InputError
            For a removed row with its sentence; for other names with the nearest name and all names.
        """
        if name in self._removed and name not in self._rows:
            raise InputError(f"{kind or self.kind} {name!r}: {self._removed[name]}")
        choose(kind or self.kind, name, list(self._rows))

    def __getitem__(self, name: str) -> Row:
        self.check(name)
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __repr__(self) -> str:
        return f"Table({self.kind!r}, {list(self._rows)})"
