"""Progress bars of a sweep, and warnings on the command line."""

import io
import math
import warnings
from types import SimpleNamespace

import pytest
from rich.console import Console

from masksearch.cli.streams import one_line_warnings
from masksearch.cli.sweep_progress import ProgressBars
from masksearch.core.problem_and_trials import Score, Trial


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (Score(0.25), "0.2500"),
        (Score(math.nan), "nan"),
        (Score(0.25, exact=False), "<= 0.2500"),
        (Score(-0.00001), "0.0000"),
    ],
)
def test_trial_bar_shows_score_bound_or_nan(score, text):
    bars = ProgressBars(Console(file=io.StringIO()))
    cell = SimpleNamespace(searches=True, label="cell", settings=SimpleNamespace(sweep=SimpleNamespace(budget=5)))
    bars.search_begins(cell)
    bars.trial(cell, Trial(0, score, 1, is_best=False, is_repeat=False))
    [task] = bars._bars.tasks
    assert task.fields["note"] == f"{text}  best nan"


def test_gradual_pruning_has_a_bar_before_the_search():
    bars = ProgressBars(Console(file=io.StringIO()))
    cell = SimpleNamespace(searches=True, label="cell", settings=SimpleNamespace(sweep=SimpleNamespace(budget=5)))
    bars.cell_begins(cell)
    bars.gradual_begins(cell, "magnitude", 4)
    [task] = bars._bars.tasks
    assert (task.fields["cell"], task.description, task.total) == ("cell", "gradual pruning by magnitude", 4)
    bars.epoch(SimpleNamespace(train_loss=0.5, val_metric=None))
    assert task.completed == 1
    bars.search_begins(cell)
    [task] = bars._bars.tasks
    assert (task.description, task.total, task.completed) == ("search", 5, 0)


def test_search_of_each_round_has_a_bar():
    bars = ProgressBars(Console(file=io.StringIO()))
    cell = SimpleNamespace(searches=True, label="cell", settings=SimpleNamespace(sweep=SimpleNamespace(budget=5)))
    bars.search_begins(cell)
    bars.retraining_begins(cell, 2)
    bars.search_begins(cell)
    bars.trial(cell, Trial(0, Score(0.5), 1, is_best=False, is_repeat=False))
    [task] = bars._bars.tasks
    assert (task.description, task.total, task.completed) == ("search", 5, 1)


def test_rescoring_has_a_bar():
    bars = ProgressBars(Console(file=io.StringIO()))
    cell = SimpleNamespace(label="cell")
    bars.rescoring_begins(cell, 2)
    bars.rescored(cell, Score(-0.5, seconds=0.1))
    [task] = bars._bars.tasks
    assert (task.description, task.total, task.completed) == ("scoring again", 2, 1)
    assert task.fields["note"] == "-0.5000"


def test_workers_and_failures_are_shown_in_a_live_table():
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    one, two = (
        SimpleNamespace(label=f"cell{n}", settings=SimpleNamespace(sweep=SimpleNamespace(budget=5))) for n in "12"
    )
    with ProgressBars(console) as bars:
        bars.sweep_begins([one, two], [one, two])
        first, second = bars.beside(0), bars.beside(1)
        first.cell_begins(one)
        first.search_begins(one)
        first.trial(one, Trial(0, Score(0.5), 1, is_best=True, is_repeat=False))
        second.cell_begins(two)
        second.retraining_begins(two, 3)
        second.epoch(SimpleNamespace(train_loss=0.25, val_metric=0.75))
        bars._bars.refresh()
        shown = console.file.getvalue()
        for texts in (
            ("worker", "cell", "stage", "score", "left"),
            ("0", "cell1", "search", "1/5", "0.5000  best 0.5000"),
        ):
            assert any(all(text in line for text in texts) for line in shown.splitlines())
        assert any(all(t in line for t in ("cell2", "retraining", "1/3", "val 0.7500")) for line in shown.splitlines())
        second.cell_fails(two, "it was wrong")
        sweep, _ = bars._bars.tasks
        assert (sweep.completed, sweep.fields["note"]) == (1, "[red]1 failed[/]")


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [(0.0, ["one: training 1 of 2  loss 0.5000", "one: training 2 of 2  loss 0.5000"]), (60.0, [])],
)
def test_log_file_gets_a_line_about_a_long_stage_after_the_given_seconds(seconds, lines):
    written = io.StringIO()
    bars = ProgressBars(Console(file=written), seconds)
    cell = SimpleNamespace(label="one")
    bars.sweep_begins([cell, cell], [cell, cell])
    bars.cell_begins(cell)
    bars.retraining_begins(cell, 2)
    for _ in range(2):
        bars.epoch(SimpleNamespace(train_loss=0.5, val_metric=None))
    expected = ["2 cells to run", *(line.replace("training", "retraining") for line in lines)]
    assert written.getvalue().splitlines() == expected


def test_user_warning_is_printed_as_a_single_line_without_source_location():
    place = ("file.py", 3)
    with one_line_warnings():
        assert warnings.formatwarning(UserWarning("too few"), UserWarning, *place) == "masksearch: too few\n"
        assert "file.py:3" in warnings.formatwarning("old", DeprecationWarning, *place)
    assert "file.py:3" in warnings.formatwarning("too few", UserWarning, *place)
