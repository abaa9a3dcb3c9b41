"""Tables: equal rows in Markdown, HTML and terminal, and no number cut off."""

import re

import pytest
from changed_results import changed
from report_cases import Page, printed

from masksearch.analysis import summarise
from masksearch.report import costs_markdown, markdown_table, moments_markdown, terminal_table
from masksearch.report.tables.summary_tables import caption, columns_of, table_rows


def body(text):
    """The cells of a table in Markdown."""
    return [line.strip("| ").split(" | ") for line in text.splitlines()[2:] if line.startswith("|")]


def test_markdown_html_and_terminal_tables_have_equal_rows(finished):
    rows = summarise(finished[0].cells)
    expected = table_rows(rows, columns_of(rows))
    assert body(markdown_table(rows)) == expected
    assert Page(finished[1].read_text()).tables[0][1:] == table_rows(rows, columns_of(rows))
    wide = printed(terminal_table(rows, 150), 150)
    for cells in expected:
        assert all(cell in wide for cell in cells[1:])
    assert "search s" in wide
    assert "search s" not in printed(terminal_table(rows, 90), 90)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 150, 200])
def test_terminal_table_cuts_off_no_number_and_always_shows_the_accuracy(rounds, width):
    rows = summarise(rounds.cells, rounds.dense)
    shown = printed(terminal_table(rows, width), width)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    results = shown.partition("Rounds")[0]
    for row in rows:
        assert re.search(rf"(^|\s){re.escape(row.trained.text(100))}(\s|$)", results, re.MULTILINE)
    for row in rows[1:]:
        [(round_, trained)] = [(r.texts[0], r.texts[8]) for r in row.rounds[-1:]]
        assert trained in shown, round_


def test_terminal_table_of_150_characters_has_all_main_columns(rounds):
    rows = summarise(rounds.cells, rounds.dense)
    results = printed(terminal_table(rows, 150), 150).partition("Rounds")[0]
    head = results.splitlines()[1]
    for column in ("method", "variant", "sparsity", "found", "untrained %", "trained %", "MACs %", "speed x", "params"):
        assert column in head
    for row in rows:
        line = next(line for line in results.splitlines() if row.trained.text(100) in line)
        assert row.untrained.text(100) in line
    for words in ("lottery", "ticket, 2", "rounds", "shuffled"):
        assert words in results


def test_terminal_shows_rounds_only_of_cells_with_several_rounds(finished, rounds):
    assert "as found %" not in printed(terminal_table(summarise(finished[0].cells), 150), 150)
    shown = printed(terminal_table(summarise(rounds.cells), 150), 150)
    several = [row for row in summarise(rounds.cells) if len(row.rounds) > 1]
    assert several
    for row in several:
        for round_ in row.rounds:
            line = r"\s+".join(map(re.escape, round_.texts[1:10]))
            assert re.search(line, shown)


def test_markdown_of_moments_and_costs_has_all_rows(rounds):
    rows = summarise(rounds.cells, rounds.dense)
    moments = body(moments_markdown(rows))
    assert len(moments) == sum(len(row.rounds) for row in rows)
    assert [tuple(line[-11:]) for line in moments] == [round_.texts for row in rows for round_ in row.rounds]
    treated = [row for row in rows if row.control == "none"]
    assert [line[4] for line in body(costs_markdown(rows))] == [row.trained.plain(".2f", 100) for row in treated]


def test_missing_values_are_dashes(finished):
    rows = summarise([changed(finished[0].cells[0], score={"accuracy_gap": None})])
    columns = columns_of(rows)
    row = dict(zip(columns, table_rows(rows, columns)[1], strict=True))
    assert row["gap"] == "–"
    assert row["scorings"] == "15"


def test_caption_explains_only_columns_and_variants_in_the_table(finished, rounds):
    rows = summarise(rounds.cells)
    assert "mean (± half of the difference) over 2 seeds" in caption(rows, columns_of(rows))
    assert "shuffled: a control" in caption(rows, columns_of(rows))
    assert "learned" not in caption(rows, columns_of(rows))
    assert "speed" not in caption(rows, ["method", "trained %"])
    one = summarise([cell for cell in finished[0].cells if cell.seed == 0 and not cell.learned])
    assert "one seed, so without intervals" in caption(one, columns_of(one))
    assert "control" not in caption(one, columns_of(one))


def test_networks_with_constant_outputs_are_marked(finished):
    cells = [cell for cell in finished[0].cells if (cell.method, cell.sparsity) == ("snip", 0.5)]
    cells[1] = changed(cells[1], trained={"constant_outputs": 9})
    assert "constant outputs: 1 of 3" in table_rows(summarise(cells), ["method"])[1][0]


def test_scorings_of_a_shared_study_are_shown_beside_own_scorings(finished):
    cells = [cell for cell in finished[0].cells if (cell.method, cell.sparsity) == ("annealing", 0.5)]
    assert "from a shared study" not in caption(summarise(cells), ["scorings"])
    cells = [changed(cell, score={"foreign_trials": count}) for cell, count in zip(cells, (4, 6, 8), strict=True)]
    rows = summarise(cells)
    assert table_rows(rows, ["scorings"])[1] == ["15 + 6"]
    assert "from a shared study" in caption(rows, ["scorings"])


def test_diverged_trainings_are_marked(finished):
    cells = [cell for cell in finished[0].cells if (cell.method, cell.sparsity) == ("snip", 0.5)]
    cells[0] = changed(cells[0], trained={"diverged": True})
    assert "diverged: 1 of 3" in table_rows(summarise(cells), ["method"])[1][0]
