"""A table of texts, for a terminal and for a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from masksearch.report.tables.results_table import markdown

__all__ = ["Grid"]


@dataclass(frozen=True)
class Grid:
    """A titled table whose first columns are words, the others numbers."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    texts: int  # columns of words
    about: str = ""

    def terminal(self) -> Table:
        """For a rich console."""
        title = Text(self.title, style="table.title", no_wrap=True, overflow="ignore")  # may be wider than its table
        table = Table(
            title=title, caption=self.about or None, title_justify="left", caption_justify="left", box=SIMPLE_HEAD,
            pad_edge=False,
        )  # fmt: skip
        for place, name in enumerate(self.head):
            table.add_column(name, justify="left" if place < self.texts else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """With its title as a heading."""
        body = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        about = f"\n{self.about}\n" if self.about else ""
        return f"## {self.title}\n\n{markdown(self.head, body, self.texts)}{about}"
