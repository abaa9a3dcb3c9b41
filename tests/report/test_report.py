"""Reports: whole in one file, their numbers those of the cells, the same bytes for the same cells."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import t

from masksearch.analysis import summarise
from masksearch.experiment import Settings, costs, read_sweep, run_sweep
from masksearch.experiment.settings import RunSettings, ScoringSettings, SweepSettings
from masksearch.files import read_json
from masksearch.report import markdown_table, terminal_table, write_report
from masksearch.report.tables import COLUMNS, cells_of
from masksearch.training import TrainSettings

METHODS = ("annealing", "random_search", "snip")
SPARSITY = (0.5, 0.9)
VOID = {"meta", "br", "hr", "img", "link", "input"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep over three seeds, and the path of its report."""
    sweep = SweepSettings(model="lenet_300_100:0.05", methods=METHODS, sparsity=SPARSITY, seeds=3, budget=15)
    run = RunSettings(name="<a> & b", runs=str(tmp_path_factory.mktemp("report")), device="cpu", threads=1)
    scoring = ScoringSettings(train_images=150, search_images=50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "_LATENCY_SECONDS", 0.002)
        result = run_sweep(Settings(sweep, TrainSettings(epochs=1, lr=0.1), scoring, run=run))
    return result, write_report(result, ["masksearch", "run", "--name", "<a> & b"])


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


@pytest.fixture(scope="module")
def page(finished):
    return Page(finished[1].read_text())


def test_the_page_is_well_formed(page):
    assert page.open == []
    assert page.tags[:2] == ["html", "head"]
    assert {"title", "style", "body", "table", "svg", "figure"} <= set(page.tags)


def test_the_page_loads_nothing_and_runs_nothing(finished, page):
    assert not {"script", "link", "iframe", "img", "object", "embed", "image"} & set(page.tags)
    loads = {"src", "href", "xlink:href", "srcset", "data", "poster", "action", "background"}
    references = [value for _, name, value in page.attributes if name in loads]
    assert references  # of matplotlib's glyphs and clip paths, within the page
    assert all(value.startswith("#") for value in references)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    text = finished[1].read_text()
    assert all(target.startswith("#") for target in re.findall(r"""url\(["']?([^)]*)\)""", text))
    assert "@import" not in text
    links = {(tag, name) for tag, name, value in page.attributes if value and re.match("https?:|//", value)}
    assert links <= {(tag, name) for tag, name in links if name.startswith("xmlns") or tag.startswith(("cc:", "dc:"))}


def estimate(values, scale=100.0):
    """``mean ± half width``, by SciPy."""
    values = np.array(values)
    error = values.std(ddof=1) / len(values) ** 0.5
    half = t.interval(0.95, len(values) - 1, scale=error)[1] if error else 0.0
    return f"{scale * values.mean():.2f} ± {scale * half:.2f}"


def test_the_table_holds_the_numbers_of_the_cells(finished, page):
    result, _ = finished
    metrics = [read_json(path) for path in sorted(result.path.glob("*/metrics.json"))]
    assert len(metrics) == 18
    head, dense, *rows = page.tables[0]
    assert tuple(head) == COLUMNS
    seeds = {cell["seed"]: cell["dense"]["test_accuracy"] for cell in metrics}
    assert dense[0] == "dense"
    assert dense[head.index("trained %")] == estimate(list(seeds.values()))
    expected = [(method, sparsity) for sparsity in SPARSITY for method in METHODS]
    assert len(rows) == len(expected)
    for row, (method, sparsity) in zip(rows, expected, strict=True):
        cells = [cell for cell in metrics if (cell["method"], cell["sparsity"]) == (method, sparsity)]
        assert sorted(cell["seed"] for cell in cells) == [0, 1, 2]
        shown = dict(zip(head, row, strict=True))
        assert shown["method"].partition(" (empties")[0] == method.replace("_", " ")
        assert shown["sparsity"] == f"{sparsity:.0%}".replace("%", " %")
        assert shown["untrained %"] == estimate([cell["untrained"]["test_accuracy"] for cell in cells])
        assert shown["trained %"] == estimate([cell["trained"]["test_accuracy"] for cell in cells])
        gap = 100 * np.mean([cell["score"]["accuracy_gap"] for cell in cells])
        assert float(shown["gap"]) == pytest.approx(gap, abs=0.051)
        params = np.mean([cell["cost"]["nonzero_params"] for cell in cells])
        assert float(shown["params"].replace(",", "")) == pytest.approx(params, abs=0.51)
        macs = 100 * np.mean([cell["cost"]["effective_macs"] / cell["dense"]["cost"]["macs"] for cell in cells])
        assert float(shown["MACs %"]) == pytest.approx(macs, abs=0.051)
        assert shown["scorings"] == ("15" if method != "snip" else "0")


def test_figures_are_there_and_say_what_they_are(finished, page):
    assert page.tags.count("svg") == page.tags.count("figcaption") == 3  # accuracies, and two searches
    assert page.captions[1:] == ["annealing, 90 % sparse, seed 0", "random search, 90 % sparse, seed 0"]
    text = "".join(page.text)
    for words in ("Hamming distance (units)", "scorings", "test accuracy (%)", "score (calibrated loss)", "dense"):
        assert words in text


def test_settings_versions_and_the_command_are_there(finished, page):
    shown = {row[0]: row[1] for table in page.tables[1:] for row in table if len(row) == 2}
    result, _ = finished
    assert shown["budget"] == "15"
    assert shown["sparsity"] == "0.5 0.9"
    assert shown["torch"] == result.machine["torch"]
    assert shown["name"] == "<a> & b"  # and no markup
    assert "masksearch run --name '<a> & b'" in "".join(page.text)


def test_the_best_method_is_named_with_its_figure(finished, page):
    text = " ".join("".join(page.text).split())
    for sparsity in SPARSITY:
        best = max((r for r in summarise(finished[0].cells) if r.sparsity == sparsity), key=lambda r: r.trained.mean)
        name = best.method.replace("_", " ")
        figure = best.trained.text(100)
        assert f"At {100 * sparsity:g} % sparsity, {name} has the highest mean after retraining: {figure} %" in text


def test_the_same_cells_make_the_same_bytes(finished):
    result, path = finished
    before = path.read_bytes()
    again = write_report(read_sweep(result.path), ["masksearch", "run", "--name", "<a> & b"])
    assert again == path
    assert again.read_bytes() == before
    assert b"Command" not in write_report(result).read_bytes()
    write_report(result, ["masksearch", "run", "--name", "<a> & b"])


def test_one_seed_has_no_intervals_and_no_searches_no_trajectories(finished):
    result, path = finished
    before = path.read_bytes()
    chosen = [place for place, cell in enumerate(result.cells) if cell["method"] == "snip" and cell["seed"] == 0]
    part = replace(result, cells=[result.cells[i] for i in chosen], folders=[result.folders[i] for i in chosen])
    page = Page(write_report(part).read_text())
    path.write_bytes(before)
    assert page.open == []
    assert page.tags.count("svg") == 1
    assert not any("±" in cell for row in page.tables[0] for cell in row)


def test_the_three_tables_hold_the_same_rows(finished, page):
    rows = summarise(finished[0].cells)
    lines = markdown_table(rows).splitlines()
    assert [line.strip("| ").split(" | ") for line in lines[2:]] == [list(cells_of(row)) for row in rows]
    assert page.tables[0][1:] == [list(cells_of(row)) for row in rows]
    wide, narrow = (_print(terminal_table(rows, width), width) for width in (150, 100))
    for row in rows:
        cells = cells_of(row)
        assert cells[3] in wide
        assert cells[4] in narrow
    assert "scorings" in wide
    assert "search s" not in narrow
    assert max(map(len, narrow.splitlines())) <= 100


def _print(table, width):
    console = Console(width=width, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    return console.export_text()


def test_figures_that_are_missing_are_dashes(finished):
    cells = [dict(cell) for cell in finished[0].cells[:1]]
    cells[0]["score"] = {**cells[0]["score"], "accuracy_gap": None}  # JSON knows no NaN
    row = dict(zip(COLUMNS, cells_of(summarise(cells)[1]), strict=True))
    assert row["gap"] == "–"
    assert row["scorings"] == "15"
