"""Cells in several processes: the results of one process, its errors, and nothing left running."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_sweeps import SMALL, settings_in, small_world  # noqa: F401
from test_kill import results

from masksearch.data import load_data
from masksearch.experiment import Settings, SweepCallback, run_sweep
from masksearch.experiment.machine import Plan, plan_workers
from masksearch.utils.errors import InputError

CPU = torch.device("cpu")
SWEEP = {"methods": ["annealing", "magnitude", "random"], "seeds": 2, "control": ["shuffle"], "device": "cpu"}
SCRIPT = """
import multiprocessing, sys
from masksearch.experiment import Settings, SweepCallback, run_sweep

class Telling(SweepCallback):
    def cell_begins(self, cell):
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)

run_sweep(Settings().updated({flat!r}, "test"), Telling())
"""


class Notes(SweepCallback):
    """Notes every hook's name and, of cells, the folder."""

    def __init__(self):
        self.noted = []

    def cell_begins(self, cell):
        self.noted.append(("begins", cell.folder))

    def trial(self, cell, trial):
        self.noted.append(("trial", cell.folder))

    def cell_ends(self, cell, metrics):
        self.noted.append(("ends", cell.folder))


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inline")
    return results(run_sweep(settings_in(folder, workers=1, **SWEEP)).path.parent)


def test_two_processes_give_the_results_of_one(inline, tmp_path):
    notes = Notes()
    result = run_sweep(settings_in(tmp_path, workers=2, **SWEEP), notes)
    assert results(result.path.parent) == inline
    assert result.machine["workers"] == "2"
    assert not multiprocessing.active_children()
    folders = [folder.name for folder in result.folders]
    for what in ("begins", "ends"):
        assert sorted(folder for kind, folder in notes.noted if kind == what) == sorted(folders)
    assert sum(kind == "trial" for kind, _ in notes.noted) == SMALL["budget"] * 2


def test_an_interruption_ends_the_workers_and_keeps_what_was_finished(inline, tmp_path):
    class Interrupted(SweepCallback):
        def cell_ends(self, cell, metrics):
            raise KeyboardInterrupt

    settings = settings_in(tmp_path, workers=2, **SWEEP)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(settings, Interrupted())
    assert not multiprocessing.active_children()
    assert list((tmp_path / "runs" / "sweep").glob("*/metrics.json"))
    assert results(run_sweep(settings).path.parent) == inline


def test_wrong_input_that_a_worker_finds_reaches_the_caller(tmp_path):
    with pytest.raises(InputError, match="dense network of seed 0: its loss was not finite"):
        run_sweep(settings_in(tmp_path, workers=2, lr=1e30, device="cpu"))
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_an_error_of_one_line(tmp_path):
    class Killing(SweepCallback):
        def cell_begins(self, cell):
            for child in multiprocessing.active_children():
                child.kill()

    with pytest.raises(InputError, match=r"workers: a process ended with code -9.*the same command goes on"):
        run_sweep(settings_in(tmp_path, workers=2, **SWEEP), Killing())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_workers_end_with_their_main_process(tmp_path):
    script = tmp_path / "script.py"  # without a guard of its main module
    flat = SMALL | SWEEP | {"runs": str(tmp_path / "runs"), "workers": 2, "budget": 100_000}
    script.write_text(SCRIPT.format(flat=flat))
    main = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    workers = list(map(int, main.stdout.readline().split()))
    assert len(workers) == 2
    main.send_signal(signal.SIGKILL)
    main.wait()
    deadline = time.monotonic() + 20
    while any(map(_runs, workers)):
        assert time.monotonic() < deadline, "a worker outlives its main process"
        time.sleep(0.05)


def _runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("flat", "cells", "plan"),
    [
        ({}, 54, Plan(4, 1)),
        ({}, 9, Plan(2, 1)),
        ({}, 3, Plan(1, 1)),
        ({"workers": 2}, 3, Plan(2, 1)),
        ({"model": "conv2"}, 54, Plan(1, 4)),
        ({"model": "conv2", "workers": 2}, 54, Plan(2, 2)),
        ({"seconds": 5.0}, 54, Plan(1, 1)),
    ],
)
def test_threads_are_shared_out(flat, cells, plan):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        part = Settings().updated(flat, "test")
        assert plan_workers([part], [load_data("digits", train_examples=100)], cells, CPU) == plan
    finally:
        torch.set_num_threads(before)


def test_a_gpu_has_one_process():
    part = Settings().updated({"workers": 2}, "test")
    with pytest.raises(InputError, match="workers: 2; on cuda cells run one after the other"):
        plan_workers([part], [load_data("digits", train_examples=100)], 54, torch.device("cuda"))
