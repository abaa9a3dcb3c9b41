"""The progress line of long calls: shown on a terminal and in a notebook, and nowhere else."""

import io
import re
from contextlib import redirect_stderr
from types import SimpleNamespace

import torch
from torch import nn

import masksearch as ms
from masksearch.utils.progress import Steps, steps


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream=Terminal, **options):
    """Return the history of a search and its output to standard error."""
    data = ms.load_data("digits")
    model = ms.build_model("lenet_300_100:0.05", data, seed=0)
    space = ms.weight_space(model)
    scorer = ms.Scorer(model, space, data.search, objective="loss")
    with redirect_stderr(stream()) as written:
        history = ms.search(space, "annealing", scorer, density=0.1, **options)
    return history, re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written.getvalue())


def test_search_shows_scored_masks_and_best_score_on_a_terminal():
    history, text = shown(budget=5)
    assert re.search(rf"searching \S+ 5/5 masks scored, best score {history.best_score:.4g} 0:00:00", text)


def test_progress_with_a_budget_of_seconds_shows_no_total_number_of_masks():
    history, text = shown(budget=ms.Budget(seconds=1e-6))
    assert f" {len(history)} masks scored, best" in text


def test_progress_is_hidden_without_terminal_on_other_ranks_and_with_progress_false(monkeypatch):
    assert shown(stream=io.StringIO, budget=5)[1] == ""
    assert shown(budget=5, progress=False)[1] == ""
    monkeypatch.setattr("masksearch.utils.progress.ranks", lambda: SimpleNamespace(first=False))
    assert shown(budget=5)[1] == ""


def test_progress_line_is_shown_in_a_notebook(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(Steps, "start", lambda self: None)  # it needs IPython
    monkeypatch.setattr(Steps, "stop", lambda self: None)
    with steps(True) as line:
        assert not line.disable


def test_compress_shows_the_names_of_its_steps(monkeypatch):
    names = []
    monkeypatch.setattr(Steps, "begin", lambda self, step: names.append(step))
    monkeypatch.setattr(Steps, "reach", lambda self, share, note: names.append(note.split()[0]))
    inputs, targets = torch.randn(60, 4), torch.randint(2, (60,))
    data = ms.Data.from_tensors("mine", (inputs[:40], targets[:40]), (inputs[40:], targets[40:]))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    ms.compress(model, data, macs=0.5, method="annealing", budget=2, train=ms.TrainSettings(epochs=1))
    assert names == [
        "finding the units that can be removed",
        "measuring the dense network",
        "ranking units",
        "searching",
        "repairing kept weights",
        "measuring the pruned network",
        "fine-tuning",
        "loss",
    ]
