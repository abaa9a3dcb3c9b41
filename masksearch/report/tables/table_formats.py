"""Tables of texts: :class:`Grid` formats a table for a terminal, as Markdown or as HTML."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

_FOLDED = 14  # width, in characters, that columns of words fold to


@dataclass(frozen=True)
class Grid:
    """A table of texts with a title; its first columns hold words, the others hold numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int  # number of columns of words
    about: str = ""
    starts: Collection[int] = ()  # places of the rows that a line parts from the row before

    @property
    def columns(self) -> list[int]:
        """Indices of the table's columns that are shown; columns of words without any text are not."""
        empty = [place for place in range(self.texts) if self.rows and not any(row[place] for row in self.rows)]
        return [place for place in range(len(self.head)) if place not in empty]

    def terminal(self, width: int | None = None, less: Sequence[str] = ()) -> Table:
        """Return the table as a :mod:`rich` table for a terminal.

        Parameters
        ----------
        width : int, optional
            Characters of the console. While the table is wider, columns named in ``less`` are left out in that order;
            numbers do not fold. If not given, all columns stay and may fold.
        """
        title = Text(self.title, style="table.title", no_wrap=True, overflow="ignore")  # may be wider than its table
        table = Table(
            title=title if self.title else None, caption=Text(self.about) if self.about else None, title_justify="left",
            caption_justify="left", box=SIMPLE_HEAD, pad_edge=False,
        )  # fmt: skip
        longest = [max(len(row[place]) for row in [self.head, *self.rows]) for place in range(len(self.head))]
        needed = [min(size, _FOLDED) if place < self.texts else size for place, size in enumerate(longest)]
        shown = self.columns
        for name in less:  # 3 characters between columns, and 1 at both ends
            if width is not None and sum(needed[place] + 3 for place in shown) - 1 > width:
                shown = [place for place in shown if self.head[place] != name]
        for place in shown:
            text = place < self.texts
            fixed, least = (False, None) if width is None else (not text, needed[place] if text else None)
            table.add_column(Text(self.head[place]), no_wrap=fixed, overflow="fold", min_width=least)
            table.columns[-1].justify = "left" if text else "right"
        for place, row in enumerate(self.rows):
            if place in self.starts:
                table.add_section()
            table.add_row(*(Text(row[column]) for column in shown))
        return table

    def markdown(self, heading: bool = True) -> str:
        """Return the table and its explanation as Markdown, below the table's title if ``heading`` is true."""
        columns = self.columns
        body = [[row[place].replace("|", "\\|") for place in columns] for row in self.rows]
        lines = [[self.head[place] for place in columns], ["---" + ":" * (p >= self.texts) for p in columns], *body]
        table = "".join("| " + " | ".join(line) + " |\n" for line in lines)
        return f"## {self.title}\n\n" * heading + table + f"\n{self.about}\n" * bool(self.about)

    def html(self) -> str:
        """Return the table and its explanation as HTML; a click on a column's heading sorts the rows."""
        columns = [(place, ' class="text"' * (place < self.texts)) for place in self.columns]
        heads = "".join(f"<th{kind}><button>{escape(self.head[place])}</button></th>" for place, kind in columns)
        rows = ""
        for number, row in enumerate(self.rows):
            cells = "".join(f"<td{kind}>{escape(row[place])}</td>" for place, kind in columns)
            start = ' class="first"' * (number in self.starts)
            rows += f"<tr{start}>{cells}</tr>\n"
        return (
            f'<div class="wide"><table class="sorts">\n<thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table>'
            f'</div><p class="about">{escape(self.about)}</p>'
        )
