"""Parts of the campaign in which workers of a sweep, or its main process, are killed while cells of all kinds run."""

import os
import random
import shutil
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from masksearch.experiment import CellsFailedError, Settings, SweepResult, run_sweep
from tests.faults import runs
from tests.faults.campaign import Part, Report, scratch
from tests.faults.forks import Ended, run

__all__ = ["CELLS", "marked_processes", "run_under_kills", "sweep_of_all_kinds", "worker_parts"]

CELLS = 12
"""Number of cells of the sweep: weights, filters, rounds, a front, a shared study."""

_COMMON = {
    "model": "lenet_300_100:0.05",
    "sparsity": [0.8],
    "seeds": 2,
    "epochs": 3,
    "lr": 0.1,
    "budget": 12,
    "train_examples": 150,
    "val_examples": 60,
    "search_examples": 30,
    "device": "cpu",
    "threads": 1,
    "latency_seconds": 0.0,
}
_MARK = "MASKSEARCH_KILL_TEST"
_ATTEMPTS = 10  # of the same command, after cells that ended three workers
_DRIVER_KILLS = 2  # of the main process of one sweep, at most


def sweep_of_all_kinds(folder: Path, executor: str) -> list[Settings]:
    """Return the settings of a sweep of 12 cells, with two dense networks, and make ``folder`` the current folder.

    The text of the path of the runs is part of what a shared study's proposals follow from.
    """
    kinds = (
        {"methods": ["annealing", "magnitude"], "budget": 40, "rewind_to": ["1ep"]},
        {"methods": ["optuna_tpe"], "granularity": "filter"},
        {"methods": ["snip"], "schedule": ["iterative"], "rounds": [2], "rewind_to": ["1ep"]},
        {"methods": ["optuna_nsga2"], "granularity": "filter", "max_macs": [0.5], "budget": 20},
        {"methods": ["optuna_tpe"], "optuna": {"study": "shared", "storage": "sqlite:///studies.db"}},
    )
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    where = {"runs": "runs", "name": "sweep", "executor": executor}
    return [Settings().updated(_COMMON | where | kind, "kill test") for kind in kinds]


def marked_processes(mark: str) -> dict[int, str]:
    """Return {process id: command line} of running processes whose environment has ``mark``, but not this one."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{_MARK}={mark}".encode() in (process / "environ").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
            if marked and state not in "ZX" and int(process.name) != os.getpid():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (OSError, ValueError):
            continue
    return found


@contextmanager
def marked() -> Iterator[str]:
    """Context manager in which started processes have a mark in their environment; yields the mark."""
    mark = uuid.uuid4().hex
    os.environ[_MARK] = mark
    try:
        yield mark
    finally:
        del os.environ[_MARK]


class Killer(threading.Thread):
    """Kills a random worker of this process after random pauses, until it has made a number of kills."""

    def __init__(self, kills: int, seed: int, pause: float, workers: Callable[[], list[int]]) -> None:
        super().__init__(daemon=True)
        self.kills, self._most, self._pause, self._workers = 0, kills, pause, workers
        self._rng, self._over = random.Random(seed), threading.Event()

    def run(self) -> None:
        """Kill workers."""
        while self.kills < self._most and not self._over.wait(self._rng.uniform(0.2, 1.8) * self._pause):
            if workers := self._workers():
                try:
                    os.kill(self._rng.choice(workers), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.kills += 1

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()


def process_workers() -> list[int]:
    """Return the ids of this process' workers."""
    from multiprocessing import active_children

    return [child.pid for child in active_children() if child.pid is not None]


def ray_workers(mark: str) -> list[int]:
    """Return the ids of Ray's processes that run actors of a sweep."""
    no_workers = ("ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::IDLE")  # a node ends without its agents
    processes = marked_processes(mark).items()
    return [number for number, line in processes if line.startswith("ray::") and not line.startswith(no_workers)]


def run_under_kills(
    folder: Path, executor: str, kills: int, seed: int, pause: float = 1.0
) -> tuple[SweepResult, int, set[str]]:
    """Run the sweep while workers are killed, again where cells have ended three workers each.

    Returns
    -------
    result : SweepResult
    killed : int
        Number of kills.
    left : set of str
        Command lines of processes that outlive the sweep.
    """
    killed, result = 0, None
    with marked() as mark:
        workers = (lambda: ray_workers(mark)) if executor.startswith("ray") else process_workers
        for attempt in range(_ATTEMPTS):
            killer = Killer(kills - killed, seed + attempt, pause, workers)
            killer.start()
            try:
                result = run_sweep(sweep_of_all_kinds(folder, executor))
            except CellsFailedError as error:
                if "three times at the same job" not in str(error):
                    raise
            finally:
                killer.stop()
                killed += killer.kills
            if result is not None:
                break
        left = lasting(mark)
    assert result is not None, f"{_ATTEMPTS} attempts were not enough"
    return result, killed, left


def lasting(mark: str, seconds: float = 180.0) -> set[str]:
    """Return the command lines of marked processes that have not ended after some seconds, but for servers of forks.

    Agents of a Ray whose main process was killed while Ray started end after a minute or two.
    """
    until = time.monotonic() + seconds
    while True:
        lines = marked_processes(mark).values()
        left = {line for line in lines if "multiprocessing" not in line}
        left |= {"a worker" for number in process_workers()}
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.1)


def _kill_workers(executor: str, kills: int) -> Part:
    def part(report: Report, share: float) -> None:
        """Kill workers at random until the number of kills is reached; compare with the rows of one process."""
        wanted = _inline()
        left, trial = max(2, round(share * kills)), 0
        while left > 0:
            folder = scratch()
            trial += 1
            ended = run(lambda folder=folder, trial=trial, left=left: _job(folder, executor, left, trial), timeout=1800)
            made = int(ended.out.rpartition("kills: ")[2] or 0) if ended.kind == "done" else left
            left -= max(made, 1)
            print(f"{executor}, trial {trial}: {made} kills", file=sys.stderr, flush=True)
            report.add(*_outcome(ended, wanted, folder), f"{executor}, trial {trial}, {made} kills", ended.err)
            shutil.rmtree(folder, ignore_errors=True)

    return part


def _job(folder: Path, executor: str, kills: int, seed: int) -> int:
    _, killed, left = run_under_kills(folder, executor, min(kills, CELLS), seed)
    if left:
        print(f"left behind: {sorted(left)}")
        return 1
    print(f"kills: {killed}")
    return 0


def _kill_driver(executor: str) -> Part:
    def part(report: Report, share: float) -> None:
        """Kill the main process after random times, and start it again, until the sweep is finished."""
        wanted, rng = _inline(), random.Random(5)
        for trial in range(max(1, round(share * 5))):
            folder, killed = scratch(), 0
            for attempt in range(_ATTEMPTS):
                after = rng.uniform(10.0, 30.0) if attempt < _DRIVER_KILLS else 0.0
                with marked() as mark:
                    ended = run(lambda folder=folder, after=after: _driven(folder, executor, after), timeout=1800)
                    left = lasting(mark)
                killed += ended.code == -signal.SIGKILL
                if ended.kind != "killed" or left:
                    break
            print(f"{executor}, trial {trial}: main process killed {killed} times", file=sys.stderr, flush=True)
            text = f"{executor}, trial {trial}, the main process killed {killed} times"
            report.add("left behind" if left else _outcome(ended, wanted, folder)[0], text, f"{left} {ended.err}")
            shutil.rmtree(folder, ignore_errors=True)

    return part


def _driven(folder: Path, executor: str, after: float) -> int:
    if after:
        timer = threading.Timer(after, lambda: os.kill(os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    run_sweep(sweep_of_all_kinds(folder, executor))
    return 0


def _inline() -> dict[str, object]:
    """Results of the sweep in one process."""
    folder = scratch()
    ended = run(lambda: _driven(folder, "inline", 0.0), timeout=1800)
    assert ended.kind == "done", ended
    found = runs.results(folder / "runs")
    assert len(list((folder / "runs" / "sweep").glob("*/metrics.json"))) == CELLS
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _outcome(ended: Ended, wanted: dict[str, object], folder: Path) -> tuple[str]:
    if ended.kind != "done":
        return (ended.kind,)
    return ("right" if runs.results(folder / "runs") == wanted else "silent",)


def worker_parts() -> Iterator[tuple[str, Part]]:
    """Yield (name, part) of the parts in which workers and main processes of sweeps are killed."""
    yield "workers: processes killed at random", _kill_workers("processes:2", 20)
    yield "workers: main process of processes killed", _kill_driver("processes:2")
    yield "workers: Ray actors killed at random", _kill_workers("ray", 20)
    yield "workers: main process of Ray killed", _kill_driver("ray")
