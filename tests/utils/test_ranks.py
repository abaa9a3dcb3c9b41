"""Ranks without torchrun, and failing processes (with two real processes: tests/training/test_distributed)."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import distributed as dist

from masksearch.utils import ranks as module
from masksearch.utils.errors import InputError
from masksearch.utils.ranks import ALONE, Ranks, bounds, distributed, equal_errors, ranks

CPU = torch.device("cpu")


def both(function):
    """Return the results or exceptions of two ranks in two threads."""
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as threads:
        futures = [threads.submit(function, Ranks(rank, 2, CPU, store)) for rank in (0, 1)]
        return [future.exception() or future.result() for future in futures]


def test_single_process_keeps_its_values():
    tensor = torch.ones(2)
    ALONE.copy_from_first([tensor])
    assert ALONE.gather([1.0, 2.0]) == [[1.0, 2.0]]
    assert ALONE.sum(3) == 3
    assert ALONE.mean([0.5], 7) == [0.5]
    assert ALONE.from_first(lambda: "made") == "made"
    assert ALONE.joined(tensor, 2) is tensor
    assert ALONE.first
    ALONE.agree("anything")


def test_distributed_without_torchrun_has_a_single_rank():
    with distributed("cpu") as own:
        assert (own.rank, own.size, own.device) == (0, 1, CPU)
        assert ranks() is ALONE


@pytest.mark.parametrize(("n", "size"), [(1, 2), (10, 3), (101, 8)])
def test_bounds_of_ranks_are_consecutive_and_almost_equal(n, size):
    places = [bounds(n, rank, size) for rank in range(size)]
    assert [place for start, stop in places for place in range(start, stop)] == list(range(n))
    assert max(stop - start for start, stop in places) - min(stop - start for start, stop in places) <= 1


def test_ranks_that_fail_equally_continue():
    assert both(lambda own: [own.agree("the first cell failed"), own.agree("the second cell failed")]) == [
        [None, None],
        [None, None],
    ]


def test_ranks_that_fail_differently_raise_input_error(monkeypatch):
    monkeypatch.setattr(module, "_AGREE", 0.2)
    for text in ("rank {}: no memory", "the cell failed"):
        found = both(lambda own, text=text: None if own.rank and "cell" in text else own.agree(text.format(own.rank)))
        assert isinstance(found[0], InputError)
        assert str(found[0]).endswith("the 2 processes of torchrun disagree on this, so the run ends")


def test_only_the_first_rank_reports_an_error(monkeypatch):
    monkeypatch.setattr(module, "_SPEAK", 0.2)
    assert both(Ranks.may_report) == [True, False]
    assert both(lambda own: own.may_report() if own.rank else None) == [None, True]


@pytest.mark.parametrize(("rank", "ends"), [("0", InputError), ("1", SystemExit)])
def test_equal_errors_are_reported_by_the_first_process(monkeypatch, rank, ends):
    monkeypatch.setattr(module, "_SPEAK", 0.0)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ends), equal_errors():
        raise InputError("wrong")


def test_more_processes_than_gpus_raise_input_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with (
        pytest.raises(InputError, match=r"2 processes on this machine, on which PyTorch finds 1 GPUs"),
        distributed("cuda"),
    ):
        pass
