"""Helpers of the tests of commands: an empty folder, the smallest run, and the output of commands."""

import pytest
import torch

from masksearch.cli import dispatch as cli

TINY = [
    *("run", "--model", "lenet_300_100:0.05", "--methods", "annealing", "snip", "--sparsity", "0.8", "--seeds", "1"),
    *("--budget", "20", "--epochs", "1", "--train-examples", "200", "--search-examples", "50"),
    *("--device", "cpu", "--threads", "1", "--set", "run.latency_seconds=0.002"),
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Run each test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def one_line(capsys):
    """Return the one line on stderr; check that stdout is empty."""
    captured = capsys.readouterr()
    assert captured.out.strip() == ""
    assert captured.err.startswith("masksearch: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    assert len(captured.err) < 2000
    return captured.err


def printed(capsys, *args):
    """Return the output of a command; check that it succeeds."""
    assert cli.main(list(args)) == 0
    return capsys.readouterr().out
