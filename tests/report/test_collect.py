"""Collecting sweeps for the benchmarks: numbers as CSV, tables and figures on the page."""

import csv
import re

import pytest
from changed_results import changed

from benchmarks.collect import main, merge
from benchmarks.page import replace_block
from masksearch.experiment.cell_results import EarlyBirdResult
from masksearch.utils.errors import InputError


@pytest.fixture
def home(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- rounds -->\nold\n<!-- end of rounds -->\nafter\n")
    return tmp_path


def test_csv_rows_have_every_cell_and_its_rounds(rounds, home):
    main(rounds.path, home)
    with (home / "results" / "rounds.csv").open() as source:
        rows = list(csv.DictReader(source))
    assert len(rows) == len(rounds.cells)
    for row, cell in zip(rows, rounds.cells, strict=True):
        assert row["cell"].startswith(f"{cell.method}_")
        assert (row["dataset"], row["scope"], row["budget"]) == ("digits", "global", "")
        for name in ("method", "schedule", "rewind_to", "control", "granularity", "find_at"):
            assert row[name] == getattr(cell, name)
        assert (int(row["n_rounds"]), row["retrain_lr"]) == (cell.n_rounds, "")
        for moment in ("found", "untrained", "best_dense", "trained"):
            assert float(row[f"{moment}.test_accuracy"]) == getattr(cell.last, moment).test_accuracy
            for round_ in cell.rounds if len(cell.rounds) > 1 else []:
                figure = row[f"round{round_.number}.{moment}.test_accuracy"]
                assert float(figure) == getattr(round_, moment).test_accuracy
        if len(cell.rounds) == 1:
            assert row["round1.density"] == ""
        assert float(row["dense.best_test_loss"]) == cell.dense.best_test_loss
        dense = [network for network in rounds.dense if network.seed == cell.seed]
        seconds = sum(epoch.seconds for epoch in dense[0].epochs)
        assert row.get("seconds.dense", "") == (str(seconds) if len(dense) == 1 else "")


def test_merge_writes_rows_of_several_sweeps_to_a_single_file(rounds, home):
    merge([rounds.path, rounds.path], "twice", home)
    main(rounds.path, home)
    once, twice = ((home / "results" / f"{name}.csv").read_text().splitlines() for name in ("rounds", "twice"))
    assert twice[0] == once[0]
    assert sorted(twice[1:]) == sorted(2 * once[1:])


def test_collect_writes_tables_and_figures_to_the_page(rounds, home):
    main(rounds.path, home)
    page = (home / "README.md").read_text()
    assert page.startswith("before\n<!-- rounds -->\n| method | variant |")
    assert page.endswith("<!-- end of rounds -->\nafter\n")
    assert "old" not in page
    assert "| as found % |" in page
    links = re.findall(r"\]\((figures/[^)]*)\)", page)
    assert "figures/rounds_accuracy.png" in links
    assert "figures/rounds_found_at.png" in links
    assert {f"figures/{path.name}" for path in (home / "figures").iterdir()} == set(links)
    assert all((home / link).stat().st_size <= 150_000 for link in links)
    main(rounds.path, home)
    assert (home / "README.md").read_text() == page


def test_early_bird_epochs_are_in_the_csv_rows(rounds, home, monkeypatch):
    from benchmarks import collect

    seen = EarlyBirdResult(0.1, False, 3, {"absolute": 3, "relative": None}, [[0.0]])
    cells = [rounds.cells[0], changed(rounds.cells[1], early_bird=seen)]
    result = type(rounds)(rounds.path, rounds.settings, rounds.machine, cells, rounds.folders[:2], rounds.dense)
    collect.write_csv(collect.flat_rows(result), home / "rows.csv")
    with (home / "rows.csv").open() as source:
        first, second = csv.DictReader(source)
    assert first["early_bird.fired"] == ""
    assert (second["early_bird.fired"], second["early_bird.fires.absolute"]) == ("3", "3")
    assert second["early_bird.fires.relative"] == ""
    assert (second["early_bird.threshold"], second["early_bird.relative"]) == ("0.1", "False")


def test_dense_network_alone_has_no_csv_rows_and_a_figure_on_the_page(dense_alone, home):
    (home / "README.md").write_text("<!-- alone -->\n<!-- end of alone -->\n")
    main(dense_alone.path, home)
    assert not list((home / "results").iterdir())
    assert "figures/alone_training.png" in (home / "README.md").read_text()


def test_page_without_markers_raises_input_error_before_anything_is_written(rounds, home):
    (home / "README.md").write_text("nothing\n")
    with pytest.raises(InputError, match="one page needs the lines <!-- rounds -->"):
        main(rounds.path, home)
    assert not (home / "figures").exists()
    assert replace_block("<!-- a -->\nx<!-- end of a -->", "a", "\\1") == "<!-- a -->\n\\1<!-- end of a -->"
