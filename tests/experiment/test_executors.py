"""Cells in several processes: the results of one process, its errors, and nothing left running."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import torch
from small_sweeps import SMALL, settings_in, small_world  # noqa: F401
from test_kill import results

from masksearch import plugin
from masksearch.data import load_data
from masksearch.experiment import CellsFailedError, Settings, SweepCallback, run_sweep
from masksearch.experiment.executors import Plan, plan_of
from masksearch.utils.errors import InputError

CPU = torch.device("cpu")
SWEEP = {"methods": ["annealing", "magnitude", "random"], "seeds": 2, "control": ["shuffle"], "device": "cpu"}
SCRIPT = """
import multiprocessing, sys
from masksearch.experiment import Settings, SweepCallback, run_sweep

class PrintsWorkers(SweepCallback):
    def cell_begins(self, cell):
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)

run_sweep(Settings().updated({flat!r}, "test"), PrintsWorkers())
"""


class Notes(SweepCallback):
    """Records the name of every hook and the folder of its cell."""

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
    return results(run_sweep(settings_in(folder, executor="inline", **SWEEP)).path.parent)


def test_sweep_in_two_processes_equals_inline_sweep(inline, tmp_path):
    notes = Notes()
    result = run_sweep(settings_in(tmp_path, executor="processes:2", **SWEEP), notes)
    assert results(result.path.parent) == inline
    assert result.machine["workers"] == "2"
    assert not multiprocessing.active_children()
    folders = [folder.name for folder in result.folders]
    for what in ("begins", "ends"):
        assert sorted(folder for kind, folder in notes.noted if kind == what) == sorted(folders)
    assert sum(kind == "trial" for kind, _ in notes.noted) == SMALL["budget"] * 2


def test_annealing_over_densities_within_macs_is_equal_inline_and_in_a_process(tmp_path):
    flat = {
        "model": "conv2:0.25",
        "methods": ["annealing"],
        "granularity": "filter",
        "hold": "macs",
        "annealing": {"densities": True},
    }
    one, other = (
        results(run_sweep(settings_in(tmp_path / executor[0], executor=executor, **flat)).path.parent)
        for executor in ("inline", "processes:1")
    )
    assert one == other


def test_cells_with_two_threads_are_equal_inline_and_in_a_process(tmp_path):
    flat = {"model": "conv2:0.25", "methods": ["annealing"], "threads": 2}
    inline, process = (
        results(run_sweep(settings_in(tmp_path / executor[0], executor=executor, **flat)).path.parent)
        for executor in ("inline", "processes:1")
    )
    assert inline == process


def test_interrupted_sweep_ends_its_workers_and_keeps_finished_cells(inline, tmp_path):
    class Interrupted(SweepCallback):
        def cell_ends(self, cell, metrics):
            raise KeyboardInterrupt

    settings = settings_in(tmp_path, executor="processes:2", **SWEEP)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(settings, Interrupted())
    assert not multiprocessing.active_children()
    assert list((tmp_path / "runs" / "sweep").glob("*/metrics.json"))
    assert results(run_sweep(settings).path.parent) == inline


def test_input_error_of_a_worker_reaches_the_caller(tmp_path):
    with pytest.raises(InputError, match="dense network of seed 0: its loss was not finite"):
        run_sweep(settings_in(tmp_path, executor="processes:2", lr=1e30, device="cpu"))
    assert not multiprocessing.active_children()


class KillsWorkers(SweepCallback):
    """Kills all workers when cells begin, a number of times."""

    def __init__(self, times):
        self.left = times

    def cell_begins(self, cell):
        if self.left:
            self.left -= 1
            for child in multiprocessing.active_children():
                child.kill()


def test_cells_of_killed_workers_continue_in_new_workers(inline, tmp_path):
    killing = KillsWorkers(2)
    result = run_sweep(settings_in(tmp_path, executor="processes:2", **SWEEP), killing)
    assert killing.left == 0
    assert results(result.path.parent) == inline
    assert not multiprocessing.active_children()


FATAL = """
import os, resource, signal
import torch
from masksearch.criteria import Criterion
SPARED = {spared!r}
def ranked(space):
    return torch.arange(space.n_units, dtype=torch.float32)
def fatal(model, space, batches, *, initial=None, alive=None):
    if not os.path.exists(SPARED):
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does where memory runs out
    return ranked(space)
def hungry(model, space, batches, *, initial=None, alive=None):
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, before[1]))
    try:
        bytearray(1 << 32)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
MASKSEARCH = dict(criteria=dict(
    fatal=Criterion(fatal, "x", weights="trained", needs_batches=True),
    hungry=Criterion(hungry, "x", weights="trained", needs_batches=True),
))
"""


def test_cells_out_of_memory_fail_with_a_short_message_and_other_cells_finish(tmp_path):
    (tmp_path / "faults.py").write_text(FATAL.format(spared=str(tmp_path / "spared")))
    with plugin.scoped():
        flat = {"methods": ["fatal", "magnitude", "hungry"], "plugin": [str(tmp_path / "faults.py")]}
        settings = settings_in(tmp_path, executor="processes:1", **flat)
        with pytest.raises(CellsFailedError, match="2 cells failed, 1 finished") as raised:
            run_sweep(settings)
        fatal, hungry = raised.value.result.failures.values()
        assert re.match(r"executor: a process ended with code -9, three times.*run the same command again", fatal)
        assert hungry.startswith("MemoryError (see ")
        assert not multiprocessing.active_children()
        (tmp_path / "spared").touch()
        with pytest.raises(CellsFailedError, match="1 cell failed, 2 finished"):
            run_sweep(settings)


@pytest.mark.parametrize("executor", ["inline", "processes:2"])
def test_failed_cell_does_not_stop_the_other_cells(executor, tmp_path):
    (tmp_path / "faulty.py").write_text(
        "import torch\n"
        "from masksearch.criteria import Criterion\n"
        "def broken(model, space, batches, *, initial=None, alive=None):\n"
        "    raise ZeroDivisionError('broken at once')\n"
        "def constant(model, space, batches, *, initial=None, alive=None):\n"
        "    return torch.full((space.n_units,), torch.nan)\n"
        "MASKSEARCH = {'criteria': {'broken': Criterion(broken, 'x', weights='trained', needs_batches=True),\n"
        "                           'constant': Criterion(constant, 'x', weights='trained', needs_batches=True)}}\n"
    )
    with plugin.scoped():
        flat = {"methods": ["broken", "magnitude", "constant"], "seeds": 1, "executor": executor}
        flat |= {"plugin": [str(tmp_path / "faulty.py")], "device": "cpu"}
        settings = settings_in(tmp_path, **flat)
        for _ in range(2):  # the second call tries the two again
            with pytest.raises(CellsFailedError, match="2 cells failed") as raised:
                run_sweep(settings)
            result = raised.value.result
            assert [cell.method for cell in result.cells] == ["magnitude"]
            first, second = result.failures.items()
            assert "broken" in first[0]
            assert first[1].startswith("ZeroDivisionError: broken at once")
            assert "ZeroDivisionError" in Path(first[1].rpartition("(see ")[2].rstrip(")")).read_text()
            assert "NaN" in second[1]


def test_diverged_dense_network_fails_only_its_cells(tmp_path):
    with pytest.raises(CellsFailedError, match="its loss was not finite") as raised:
        run_sweep(settings_in(tmp_path, executor="inline", lr=1e30, device="cpu", methods=["magnitude"], seeds=1))
    assert len(raised.value.result.failures) == 1


@pytest.fixture(scope="module")
def ray_module():
    return pytest.importorskip("ray", reason="Ray is not installed (extra ray)")


def test_sweep_on_ray_equals_inline_sweep(ray_module, inline, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    notes = Notes()
    result = run_sweep(settings_in(tmp_path, executor="ray", **SWEEP), notes)
    assert results(result.path.parent) == inline
    assert sum(kind == "ends" for kind, _ in notes.noted) == len(result.folders)
    assert not ray_module.is_initialized()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_cells_of_killed_ray_workers_continue_in_new_workers(ray_module, inline, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    mark = f"MASKSEARCH_TEST={uuid.uuid4()}"  # in the environment of Ray's processes of this test, and of no others
    monkeypatch.setenv(*mark.split("="))

    class KillsActors(SweepCallback):
        left = 2

        def cell_begins(self, cell):
            for process in Path("/proc").glob("[0-9]*") if self.left else ():
                try:
                    ours = mark.encode() in (process / "environ").read_bytes()
                    if ours and re.match(rb"ray::(_Actor|\w+_s0)", (process / "cmdline").read_bytes()):
                        os.kill(int(process.name), signal.SIGKILL)
                        self.left -= 1
                except (OSError, ProcessLookupError):
                    continue

    killing = KillsActors()
    result = run_sweep(settings_in(tmp_path, executor="ray", **SWEEP), killing)
    assert killing.left <= 0
    assert results(result.path.parent) == inline
    assert not ray_module.is_initialized()


@pytest.mark.parametrize("executor", ["processes", "processes:0", "processes:two"])
def test_wrong_number_of_processes_raises_input_error(executor, tmp_path):
    with pytest.raises(InputError, match="processes:N"):
        run_sweep(settings_in(tmp_path, executor=executor, **SWEEP))


def test_unknown_executor_raises_input_error(tmp_path):
    with pytest.raises(InputError, match="did you mean 'processes'"):
        run_sweep(settings_in(tmp_path, executor="proceses:2", **SWEEP))


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_workers_end_with_their_main_process(tmp_path):
    script = tmp_path / "script.py"  # without a guard of its main module
    flat = SMALL | SWEEP | {"runs": str(tmp_path / "runs"), "executor": "processes:2", "budget": 100_000}
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
        ({}, 54, Plan("processes", 4, 1)),
        ({}, 9, Plan("processes", 2, 1)),
        ({}, 3, Plan("inline", 1, 1)),
        ({"threads": 2}, 54, Plan("inline", 1, 2)),
        ({"executor": "processes:2"}, 3, Plan("processes", 2, 1)),
        ({"executor": "processes:2", "threads": 3}, 3, Plan("processes", 2, 3)),
        ({"executor": "inline"}, 54, Plan("inline", 1, 1)),
        ({"executor": "inline", "threads": 2}, 54, Plan("inline", 1, 2)),
        ({"model": "conv2"}, 54, Plan("inline", 1, 4)),
        ({"model": "conv2", "executor": "processes:2"}, 54, Plan("processes", 2, 1)),
        ({"seconds": 5.0}, 54, Plan("inline", 1, 1)),
    ],
)
def test_executor_plan_follows_cells_model_and_settings(flat, cells, plan, monkeypatch):
    monkeypatch.setattr("masksearch.experiment.executors.executor_choice.cores", lambda: 6)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        part = Settings().updated(flat, "test")
        assert plan_of([part], [load_data("digits", train_examples=100)], cells, CPU) == plan
    finally:
        torch.set_num_threads(before)


def test_finished_sweep_starts_no_workers(tmp_path, monkeypatch):
    def start(*_, **__):
        raise AssertionError("nothing is left to do")

    flat = {"model": "lenet_300_100:0.05", "methods": ["magnitude"], "sparsity": [0.8], "seeds": 1, "epochs": 1}
    flat |= {"train_examples": 100, "runs": str(tmp_path), "latency_seconds": 0.0}
    done = run_sweep(Settings().updated(flat | {"executor": "inline"}, "test"))
    for name in ("cluster_resources", "RayCrew", "ProcessCrew"):
        monkeypatch.setattr(f"masksearch.experiment.executors.executor_choice.{name}", start)
    for executor in ("ray", "ray:auto", "processes:2"):
        assert run_sweep(Settings().updated(flat | {"executor": executor}, "test")).folders == done.folders


def test_more_threads_than_cores_warn(monkeypatch):
    monkeypatch.setattr("masksearch.experiment.executors.executor_choice.cores", lambda: 2)
    part = Settings().updated({"executor": "processes:2", "threads": 2}, "test")
    with pytest.warns(UserWarning, match="2 cells at the same time with 2 threads each share 2 cores"):
        plan_of([part], [load_data("digits", train_examples=100)], 9, CPU)
    monkeypatch.setattr("masksearch.experiment.executors.executor_choice.cores", lambda: 1)
    with pytest.warns(UserWarning, match="2 cells at the same time with 1 thread each share 1 core,"):
        plan_of([part.updated({"threads": 1}, "test")], [load_data("digits", train_examples=100)], 9, CPU)
