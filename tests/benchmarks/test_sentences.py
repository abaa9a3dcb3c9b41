"""Figures in sentences: they are those of rows and tables, and none is typed."""

import re

import pytest

from benchmarks.page import HERE, block, cells
from benchmarks.rows import write_csv
from benchmarks.sentences import Figures, documents, render, write
from masksearch.analysis import Estimate
from masksearch.utils.errors import InputError

DOCUMENTS = {path: text for path, text in documents().items() if "<!-- says_" in text}
RENDERED = render()
TEMPLATES = {path.name: path.read_text() for path in sorted((HERE / "sentences").glob("*.md"))}

DECIMAL = re.compile(r"(?<![\w.])\d*\.\d+")
SETTINGS = (  # decimals that are typed, since no run of ours gives them
    r"Python 3\.11 or newer and PyTorch 2\.6 or newer",
    r"learning rate 0\.05 in place of 256 at 0\.1",
    r"3,128 steps at 0\.0012",
    r"(Adam|SGD|ResNet-20) at 0\.\d+",
    r"99\.5 %",  # a sparsity
    r"At least 0\.[25] points above it, which is asked for",
    r'"threshold 0\.1" is the published rule; the other is 0\.2 of 2d\(1-d\)',
    r"0\.[12] of (the distance of )?unrelated masks",
    r"first 0\.1 by analogy, is 0\.2 now",
    r"\ba = \.\d",  # exponents of a compression
    r"SynFlow at \.1, \.2, \.5 and 1",
    r"would be worth 0\.75",  # of the traps as they are defined
    r"The thesis' annealing has 61\.75 %.*? MagSign, which knows the trained weights, 86\.08 %",
    r"\(published [^)]*\)",
    r"Published: dense 98\.09 %",
)


def typed(text):
    """Paragraphs and tables in a line each that stand outside of markers and of code."""
    text = re.sub(r"^<!-- (\w+) -->\n.*?<!-- end of \1 -->$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```.*?^```$|^    .*$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]


def published(part, before):
    """Whether a paragraph, or the table below one, says that its figures are others'."""
    told = before if part.startswith("|") else part
    return bool(re.match(r"Published|MACs kept, published|The thesis' own figures", told))


def typed_figures(text):
    """Decimals that no command has written."""
    parts = typed(text)
    found = []
    for part, before in zip(parts, ["", *parts], strict=False):
        if not published(part, before):
            found += [(part, figure) for figure in DECIMAL.findall(re.sub("|".join(SETTINGS), "", part))]
    return found


@pytest.mark.parametrize("name", RENDERED)
def test_the_committed_sentences_are_those_of_the_committed_rows_and_tables(name):
    (place,) = [text for text in DOCUMENTS.values() if f"<!-- {name} -->" in text]
    assert block(place, name) == RENDERED[name]


def test_every_place_has_its_template():
    places = [name for text in DOCUMENTS.values() for name in re.findall(r"^<!-- (says_\w+) -->$", text, re.MULTILINE)]
    assert sorted(places) == sorted(RENDERED)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_no_decimal_figure_stands_outside_of_markers(path):
    assert typed_figures(DOCUMENTS[path]) == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_holds_a_figure_of_its_own(name):
    assert typed_figures(re.sub(r"\{[{%].*?[}%]\}", "", TEMPLATES[name], flags=re.DOTALL)) == []


def test_typed_figures_are_found():
    assert typed_figures("It is 1.7 points\nabove it.") == [("It is 1.7 points above it.", "1.7")]
    assert typed_figures("| a | b |\n|---|---|\n| x | .363 |")
    assert typed_figures("Published: 3.5.\n\n| a |\n|---|\n| 3.5 |\n\nHere 3.6.") == [("Here 3.6.", "3.6")]
    assert not typed_figures("At 99.5 % `--lr 0.1`:\n\n    run --lr 0.1\n\n<!-- a -->\n1.5\n<!-- end of a -->")


@pytest.fixture
def rows():
    base = {"find_at": "0", "control": "none", "trained.test_accuracy": "0.9", "cost.macs": "20", "dense.macs": "80"}
    return [
        base | {"method": method, "sparsity": "0.89997", "seed": str(seed), "trained.test_accuracy": str(value)} | more
        for method, values, more in (
            ("snip", (0.91, 0.93), {}),
            ("snip", (0.905, 0.915), {"control": "shuffle"}),
            ("random", (0.5, 0.7), {}),
        )
        for seed, value in enumerate(values)
    ]


PAGE = """<!-- t -->
| a | b |
|---|---:|
| x, 1 | 1,234 |
| y | 5.0 ± 0.2 |
| y | 6.0 |

| a | c |
|---|---|
| x, 1 | 7 |
<!-- end of t -->
"""


@pytest.fixture
def home(tmp_path, rows):
    home = tmp_path / "benchmarks"
    (home / "results").mkdir(parents=True)
    (home / "sentences").mkdir()
    (home / "README.md").write_text(f"{PAGE}<!-- says_one -->\n<!-- end of says_one -->\n")
    (tmp_path / "README.md").write_text("before\n<!-- says_two -->\nold\n<!-- end of says_two -->\nafter\n")
    (home / "sentences" / "one.md").write_text('It has {{ mean("s", "snip", 0.9, control="none") }} %.\n')
    (home / "sentences" / "two.md").write_text('{{ cell("t", "b", "x, 1") | number | digits(0) }}\n')
    write_csv(rows, home / "results" / "s.csv")
    return home


@pytest.fixture
def figures(home):
    return Figures(home / "results", (home / "README.md").read_text())


def test_sentences_go_to_their_places_and_follow_their_rows(home, rows):
    write(home)
    page, readme = home / "README.md", home.parent / "README.md"
    assert block(page.read_text(), "says_one") == "It has 92.00 %.\n"
    assert readme.read_text() == "before\n<!-- says_two -->\n1,234\n<!-- end of says_two -->\nafter\n"
    first = page.read_text()
    write(home)
    assert page.read_text() == first
    write_csv([rows[0] | {"trained.test_accuracy": "0.97"}, *rows[1:]], home / "results" / "s.csv")
    page.write_text(first.replace("1,234", "4,321"))
    write(home)
    assert block(page.read_text(), "says_one") == "It has 95.00 %.\n"
    assert "4,321" in readme.read_text()


def test_a_template_has_one_place(home):
    page, readme = home / "README.md", home.parent / "README.md"
    both = page.read_text() + "<!-- says_two -->\n<!-- end of says_two -->\n"
    page.write_text(both)
    with pytest.raises(InputError, match=r"says_two: exactly one document needs a place for it; 2 have one"):
        write(home)
    page.write_text(both.replace("says_two", "other"))
    readme.write_text("nothing\n")
    with pytest.raises(InputError, match=r"says_two: exactly one document needs a place for it; 0 have one"):
        write(home)


def test_a_page_of_the_docs_has_places_too(home):
    docs, readme = home.parent / "docs", home.parent / "README.md"
    docs.mkdir()
    (docs / "page.md").write_text(readme.read_text())
    readme.write_text("nothing\n")
    write(home)
    assert block((docs / "page.md").read_text(), "says_two") == "1,234\n"
    assert readme.read_text() == "nothing\n"


def test_where_there_are_no_templates_nothing_is_written(tmp_path):
    write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_figures_of_cases(figures):
    assert figures.seeds("s", "random", 0.9) == pytest.approx([50, 70])
    assert figures.mean("s", "random", 0.9, "cost.macs / dense.macs") == 0.25
    assert figures.mean("s", ["snip", "random"], 0.9, control=["none"]) == pytest.approx([92, 60])
    assert figures.mean("s", "snip", 0.9, control=["shuffle", "none"]) == pytest.approx([91, 92])
    assert figures.estimate("s", "random", 0.9) == Estimate.of(figures.seeds("s", "random", 0.9))
    assert [figures.runs("s", *case) for case in (("random", 0.9), ("snip", 0.9), ("random", 0.8))] == [2, 2, 0]
    lost = figures.difference({"control": "none"}, {"control": "shuffle"}, sweep="s", method="snip", sparsity=0.9)
    assert (lost.mean, lost.n) == (pytest.approx(1.0), 2)
    above = figures.difference({"method": "snip", "control": "none"}, {"method": "random"}, sweep="s", sparsity=0.9)
    assert above.mean == pytest.approx(32)


def test_cells(figures):
    assert figures.cell("t", "b", "x, 1") == "1,234"
    assert figures.cell("t", "c", ["x, 1"]) == ["7"]
    assert figures.cells("t", "b") == ["1,234", "5.0 ± 0.2", "6.0"]
    assert cells(PAGE, "t", "a", "7") == ["x, 1"]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ('mean("s", "snip", 0.9)', r"s\.csv: several rows a seed of snip at 90 %; they differ in control"),
        ('mean("s", "snap", 0.9)', r"s\.csv: no rows of snap at 90 %; its methods are snip, random"),
        ('mean("s", "random", 0.8)', r"s\.csv: no rows of random at 80 %"),
        ('mean("s", "random", 0.9, control="repair")', r"no rows of random at 90 %, control repair"),
        ('mean("none", "random", 0.9)', r"none\.csv: no rows of random at 90 %; its methods are none"),
        ('mean("s", "random", 0.9, "score.gap")', r"s\.csv: no column 'score\.gap'"),
        ('mean("s", "random", 0.9, shape="x")', r"s\.csv: no column 'shape'"),
        ('cell("t", "b", "y")', r"t has 2 cells in column 'b' of rows with 'y': 5\.0 ± 0\.2, 6\.0"),
        ('cell("t", "d", "y")', r"t has no cell in column 'd' of a row with 'y'"),
        ('cell("t", "b", "x")', r"t has no cell in column 'b' of a row with 'x'"),
        ('cell("u", "b", "x")', r"no lines <!-- u -->"),
        ("means", r"'means' is undefined"),
        ("1 +", r"unexpected"),
        ('cell("t", "a", "7") | replace("1", "") | number', r"cell 'x, ': no number"),
    ],
)
def test_figures_that_are_not_there_or_not_the_only_ones_are_errors(home, expression, message):
    (home / "sentences" / "two.md").write_text(f"{{{{ {expression} }}}}\n")
    with pytest.raises(InputError, match=rf"two\.md: .*{message}"):
        write(home)
    assert block((home / "README.md").read_text(), "says_one") == ""  # nothing is written


def test_a_row_without_the_figure_is_an_error(figures, home, rows):
    write_csv([row | {"cost.macs": ""} if row["seed"] == "1" else row for row in rows], home / "results" / "s.csv")
    with pytest.raises(InputError, match=r"s\.csv: a row of random at 90 % has no cost\.macs"):
        figures.mean("s", "random", 0.9, "cost.macs")


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("1.005 + 1", "2.00"),
        ("[1.0, 2.5]", "1.00 / 2.50"),
        ("[1.0, 2.5] | digits(1)", "1.0 / 2.5"),
        ("3", "3"),
        ("12345.6 | digits(0)", "12,346"),
        ("[43.6, 40.4, 42.0] | span(0)", "40 to 44"),
        ("[9.1, 9.2] | span(0)", "9"),
        ("[15, 11, 18] | listed", "15, 11 and 18"),
        ("[15] | listed", "15"),
        ('estimate("s", "snip", 0.9, control="none")', "92.00 ± 12.71"),
        ('"+1.40 to +2.01" | number', "1.40"),
        ('"-0.2519" | number | digits(4)', "-0.2519"),
        ('"5.1e-15" | number == 5.1e-15', "True"),
        ('"448 in 12" | number | digits(0)', "448"),
    ],
)
def test_how_figures_are_printed(home, expression, text):
    (home / "sentences" / "two.md").write_text(f"{{{{ {expression} }}}}\n")
    assert render(home)["says_two"] == f"{text}\n"
