"""Constants of the sweeps of these tests, a parser of pages, and the output of terminals."""

from html.parser import HTMLParser

from rich.console import Console

METHODS = ("annealing", "edge_popup", "snip")
SPARSITY = (0.5, 0.9)
COMMAND = ["masksearch", "run", "--name", "<a> & b"]
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Reads a page; refuses elements that aren't closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.tables, self.captions, self.text = [], [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if "figcaption" in self.open:
            self.captions.append(data)
        self.text.append(data)


def printed(renderable, width):
    """Return the output of a console of this width."""
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(renderable)
    return console.export_text()


def table_with(page, *columns):
    """The one table of a page whose head has all these columns, as rows of text by column."""
    [table] = [table for table in page.tables if table and set(columns) <= set(table[0])]
    return [dict(zip(table[0], row, strict=True)) for row in table[1:]]
