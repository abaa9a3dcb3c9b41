"""What a bar says of a trial: its score, or a bound."""

import io
import math
from types import SimpleNamespace

import pytest
from rich.console import Console

from masksearch.cli.progress import ProgressBars
from masksearch.core.protocol import Score, Trial


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (Score(0.25), "score 0.2500"),
        (Score(math.nan), "score nan"),
        (Score(0.25, exact=False), "score <= 0.2500"),
    ],
)
def test_a_bar_tells_scores_from_bounds_and_stops(score, text):
    bars = ProgressBars(Console(file=io.StringIO()))
    cell = SimpleNamespace(searches=True, label="cell", settings=SimpleNamespace(sweep=SimpleNamespace(budget=5)))
    bars.search_begins(cell)
    bars.trial(cell, Trial(0, score, 1, is_best=False, is_repeat=False))
    [task] = bars._bars.tasks
    assert task.fields["note"] == f"{text}  best nan"


def test_gradual_pruning_has_a_bar_of_its_own_and_the_search_begins_after_it():
    bars = ProgressBars(Console(file=io.StringIO()))
    cell = SimpleNamespace(searches=True, label="cell", settings=SimpleNamespace(sweep=SimpleNamespace(budget=5)))
    bars.cell_begins(cell)
    bars.gradual_begins(cell, "magnitude", 4)
    [task] = bars._bars.tasks
    assert (task.description, task.total) == ("cell, gradual pruning by magnitude", 4)
    bars.epoch(SimpleNamespace(train_loss=0.5, val_metric=None))
    assert task.completed == 1
    bars.search_begins(cell)
    [task] = bars._bars.tasks
    assert (task.description, task.total, task.completed) == ("cell", 5, 0)


def test_every_round_s_search_has_a_bar():
    bars = ProgressBars(Console(file=io.StringIO()))
    cell = SimpleNamespace(searches=True, label="cell", settings=SimpleNamespace(sweep=SimpleNamespace(budget=5)))
    bars.search_begins(cell)
    bars.retraining_begins(cell, 2)
    bars.search_begins(cell)
    bars.trial(cell, Trial(0, Score(0.5), 1, is_best=False, is_repeat=False))
    [task] = bars._bars.tasks
    assert (task.description, task.total, task.completed) == ("cell", 5, 1)


def test_masks_that_are_scored_again_have_a_bar():
    bars = ProgressBars(Console(file=io.StringIO()))
    cell = SimpleNamespace(label="cell")
    bars.rescoring_begins(cell, 2)
    bars.rescored(cell, Score(-0.5, seconds=0.1))
    [task] = bars._bars.tasks
    assert (task.description, task.total, task.completed) == ("cell, scored again", 2, 1)
    assert task.fields["note"] == "score -0.5000"
