"""The campaign: parts that each make many hostile trials, and the table of their counts."""

import math
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import runs
from tests.faults.branches import Branches, branches_of, unforked_of
from tests.faults.forks import BROKEN, FULL, Disk, Ended, run

__all__ = ["OutOfTimeError", "Part", "Report", "disk_parts"]


class OutOfTimeError(BaseException):
    """Ends a part whose time is over; what it has counted stays."""


@dataclass
class Report:
    """Counts of a part by outcome, and a sentence for every trial that broke."""

    name: str
    until: float = math.inf  # of time.monotonic(); a part ends then
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def add(self, outcome: str, trial: str, text: str = "") -> None:
        """Count a trial; outcomes other than right, refused and unread are broken."""
        self.counts[outcome] += 1
        if outcome not in HELD:
            self.broken.append(f"{self.name}: {trial}: {outcome}: {text.strip()[-1500:]}")
        if time.monotonic() > self.until:
            raise OutOfTimeError

    @property
    def tried(self) -> int:
        """Number of trials."""
        return sum(self.counts.values())


HELD = ("right", "refused", "unread")
"""Outcomes that hold: the right result; one sentence before any harm; a damaged file that nothing reads, and whose
reading is refused."""

Part = Callable[[Report, float], None]
"""Makes the trials of a part; the number is the share of all trials, in (0, 1]."""


def scratch() -> Path:
    """Return a new folder in memory, if there is such a place."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="faults", dir=memory if memory.is_dir() else None))


class Reference:
    """Results of the uninterrupted run of each kind, and its number of file operations; made when they are needed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Mapping[str, object], int, Path]] = {}

    def of(self, kind: str) -> tuple[Mapping[str, object], int, Path]:
        """Return results, number of operations and folder of the uninterrupted run."""
        if kind not in self._known:
            folder = scratch()
            ended = run(runs.job(runs.command(kind, folder)), Disk(folder), timeout=300)
            assert ended.kind == "done", (kind, ended)
            operations = int(ended.out.rpartition("operations: ")[2])
            self._known[kind] = runs.results(folder), operations, folder
        return self._known[kind]

    def close(self) -> None:
        """Remove the folders."""
        for _, _, folder in self._known.values():
            shutil.rmtree(folder, ignore_errors=True)


REFERENCE = Reference()


def finished(kind: str, folder: Path, before: Ended) -> tuple[str, str]:
    """Run the same command again without faults; return the outcome of the trial, and a text about it."""
    return _stopped(before) or _again(kind, folder)


def _stopped(ended: Ended) -> tuple[str, str] | None:
    """Return what went wrong in a run that a fault has stopped; None if it ended as it should."""
    if ended.kind in ("hang", "traceback", "crash") or ended.kind.startswith("exit"):
        return ended.kind, ended.err
    return None


def _again(kind: str, folder: Path) -> tuple[str, str]:
    again = run(runs.job(runs.command(kind, folder)), timeout=300)
    if again.kind != "done":
        return f"again {again.kind}", again.err
    wanted, found = REFERENCE.of(kind)[0], runs.results(folder)
    if found != wanted:
        names = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        return "silent", f"differ: {names}"
    return "right", ""


def sampled(most: int, share: float, rng: random.Random) -> list[int]:
    """Return a sorted sample of 1 ... most."""
    return sorted(rng.sample(range(1, most + 1), max(1, round(share * most))))


def _one(report: Report, kind: str, disk: Callable[[Path], Disk], trial: str, *, begun: bool = False) -> None:
    """Make one trial in a process of its own; ``begun``: of a run that was killed at half of its operations."""
    folder = scratch()
    try:
        if begun:
            _begin(kind, folder)
        ended = run(runs.job(runs.command(kind, folder)), disk(folder), timeout=300)
        report.add(*_swap(finished(kind, folder, ended), trial))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _begin(kind: str, folder: Path) -> None:
    """Kill a run at half of its operations."""
    run(runs.job(runs.command(kind, folder)), Disk(folder, REFERENCE.of(kind)[1] // 2), timeout=300)


def _swap(found: tuple[str, str], trial: str) -> tuple[str, str, str]:
    return found[0], trial, found[1]


_FAULTS: Mapping[str, int | None] = {"kill -9": None, "EIO": BROKEN, "ENOSPC": FULL}


def _file_operations(kind: str) -> Part:
    def part(report: Report, share: float) -> None:
        """Kill -9, EIO and ENOSPC at the file operations of a kind of run; then the same command continues the run.

        All operations fail, or every n-th one for a share of them: those of a new run, and of a run that continues a
        run that was killed at half of its operations.
        """
        for begun in (False, True):
            _operations(report, kind, begun, stride=max(1, round(1 / share)))

    return part


def _operations(report: Report, kind: str, begun: bool, stride: int) -> None:
    """Let every n-th operation of a run fail; a folder that several failures leave equal is run again once."""
    folder, states = scratch(), scratch()
    outcomes: dict[str, tuple[str, str]] = {}
    try:
        if begun:
            _begin(kind, folder)
        branches = Branches(folder, states, _FAULTS, stride)
        ended = run(runs.job_without_threads(runs.command(kind, folder)), branches, timeout=7200)
        assert ended.kind == "done", (kind, ended)
        assert runs.results(folder) == REFERENCE.of(kind)[0], f"{kind}: the copies have changed the run"
        for branch in branches_of(ended.out):
            outcome = _stopped(branch.ended)
            if outcome is None:
                if branch.state not in outcomes:
                    outcomes[branch.state] = _again(kind, states / branch.state)
                outcome = outcomes[branch.state]
            trial = f"{kind}{', continued' * begun}, {branch.fault} at operation {branch.operation}, {branch.what}"
            report.add(*_swap(outcome, trial))
        for number in unforked_of(ended.out):
            for fault, error in _FAULTS.items():
                trial = f"{kind}{', continued' * begun}, {fault} at operation {number}"
                _one(report, kind, lambda folder, at=number, error=error: Disk(folder, at, error), trial, begun=begun)
    finally:
        print(
            f"{kind}, {begun=}: {report.tried} trials, {len(outcomes)} different folders", file=sys.stderr, flush=True
        )
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(states, ignore_errors=True)


def small_disks(report: Report, share: float) -> None:
    """No file may be longer than some bytes; then there is room again."""
    rng = random.Random(2)
    for kind in runs.KINDS:
        for place in sampled(20, share, rng):
            room = round(200 * 1.3**place)
            _one(report, kind, lambda folder, room=room: Disk(folder, room=room, at=-1), f"{kind}, {room} bytes a file")


def signals(report: Report, share: float) -> None:
    """TERM, INT and KILL after random times; the same command continues the run."""
    rng = random.Random(3)
    kinds = list(runs.KINDS)
    for number in range(max(1, round(share * 60))):
        kind, which = kinds[number % len(kinds)], (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[number % 3]
        folder, after = scratch(), rng.uniform(0.05, 2.0)
        try:
            ended = run(_with_alarm(runs.command(kind, folder), which, after), timeout=300)
            if which != signal.SIGINT and ended.code in (-which, 128 + which):
                ended = Ended(0, ended.out, "", ended.seconds)
            if which == signal.SIGINT and ended.code == 130 and "Traceback" not in ended.err:
                ended = Ended(0, ended.out, "", ended.seconds)
            report.add(*_swap(finished(kind, folder, ended), f"{kind}, {which.name} after {after:.2f} s"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _with_alarm(args: list[str], which: signal.Signals, after: float) -> Callable[[], int]:
    def job() -> int:
        import os
        import threading

        timer = threading.Timer(after, lambda: os.kill(os.getpid(), which))
        timer.daemon = True
        timer.start()
        code = runs.job(args)()
        timer.cancel()
        return code

    return job


def disk_parts() -> Iterator[tuple[str, Part]]:
    """Yield (name, part) of the parts in which disks fail and processes are killed."""
    for kind in runs.KINDS:
        yield f"file operations, {kind}: kill -9, EIO, ENOSPC", _file_operations(kind)
    yield "short disk: files end at some bytes", small_disks
    yield "signals TERM, INT and KILL", signals
