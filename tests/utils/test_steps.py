"""The line that shows the steps of a long call: on a terminal and in a notebook, and nowhere else."""

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
    """A search, and what it writes to standard error."""
    data = ms.load_data("digits")
    model = ms.build_model("lenet_300_100:0.05", data, seed=0)
    space = ms.weight_space(model)
    scorer = ms.Scorer(model, space, data.search, objective="loss")
    with redirect_stderr(stream()) as written:
        history = ms.search(space, "annealing", scorer, density=0.1, **options)
    return history, re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written.getvalue())


def test_a_search_shows_scorings_and_the_best_score_on_a_terminal():
    history, text = shown(budget=5)
    assert re.search(rf"searching \S+ 5/5 masks scored, best score {history.best_score:.4g} 0:00:00", text)


def test_a_search_with_seconds_has_no_number_of_masks_to_score():
    history, text = shown(budget=ms.Budget(seconds=1e-6))
    assert f" {len(history)} masks scored, best" in text


def test_nothing_is_shown_without_a_terminal_or_by_another_rank_or_if_not_wanted(monkeypatch):
    assert shown(stream=io.StringIO, budget=5)[1] == ""
    assert shown(budget=5, progress=False)[1] == ""
    monkeypatch.setattr("masksearch.utils.progress.ranks", lambda: SimpleNamespace(first=False))
    assert shown(budget=5)[1] == ""


def test_a_notebook_shows_the_line(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(Steps, "start", lambda self: None)  # it needs IPython
    monkeypatch.setattr(Steps, "stop", lambda self: None)
    with steps(True) as line:
        assert not line.disable


def test_compression_names_its_steps(monkeypatch):
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
