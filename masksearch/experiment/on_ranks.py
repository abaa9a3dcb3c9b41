"""A sweep on all processes of torchrun: rank 0 works in the run folder, the others in private copies of it."""

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from masksearch.experiment.dense_group import load_part
from masksearch.experiment.process_setup import must_be_alone
from masksearch.experiment.settings.all_settings import Settings
from masksearch.utils.errors import InputError
from masksearch.utils.ranks import distributed, equal_errors, launched, ranks

_NOT_COPIED = ("events.out.tfevents*", "report*", "*.lock", ".lock", "*.part")


@contextmanager
def on_all_ranks(parts: Sequence[Settings]) -> Iterator[list[Settings]]:
    """Context manager that connects torchrun's processes; yields the sweep's settings with the device of this process.

    Without torchrun, the settings stay as they are.

    Raises
    ------
    InputError
        For settings that need one process, or another kind of workers.
    """
    if not launched():
        yield list(parts)
        return
    with equal_errors():
        for part in parts:
            _check(part)
    with distributed(parts[0].run.device) as together:
        for part in parts:
            if part.run.download:
                together.from_first(partial(_load, part))  # the others find the files
        changes: dict[str, dict[str, object]] = {
            "sweep": {"devices": together.size},
            "run": {"device": str(together.device), "executor": "inline"},
        }
        yield [part.with_changes(changes) for part in parts]


def _check(part: Settings) -> None:
    if part.run.executor not in ("auto", "inline"):
        raise InputError(
            f"executor: {part.run.executor}; with torchrun, all processes run the same cell: leave executor out"
        )
    if must_be_alone(part):
        raise InputError(
            "seconds, max_latency or optuna.study: with torchrun, every process would measure other times or get other "
            "trials; leave them out"
        )
    if part.sweep.train_fn is not None:
        raise InputError(
            f"train_fn: {part.sweep.train_fn}; with torchrun, a loop of your own would run once per process; leave out "
            "train_fn or torchrun"
        )


def _load(part: Settings) -> None:
    load_part(part)


@contextmanager
def own_copy(parts: Sequence[Settings]) -> Iterator[list[Settings]]:
    """Context manager that yields a sweep's settings; on torchrun's later processes, with a private copy of its folder.

    The processes read and write the same files at the same places of the sweep, and only those of rank 0 count. Other
    ranks begin with a copy of what the sweep continues from, in a temporary folder that is removed at the end.
    """
    if ranks().first:
        ranks().gather([0])  # the copies are complete
        yield list(parts)
        return
    run = parts[0].run
    source = Path(run.runs)
    words = f"{source.resolve()}/{run.name} {os.getuid()} rank {ranks().rank}"
    signal.signal(signal.SIGTERM, _end)  # torchrun's signal to the others when one process has ended
    # The name is fixed, so that the next run removes what a killed one has left.
    target = Path(tempfile.gettempdir()) / f"masksearch-{hashlib.sha256(words.encode()).hexdigest()[:16]}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700)
    try:
        for folder in _folders(parts, source):
            shutil.copytree(folder, target / folder.relative_to(source), ignore=shutil.ignore_patterns(*_NOT_COPIED))
        ranks().gather([0])
        yield [part.with_changes({"run": {"runs": str(target)}}) for part in parts]
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _end(*_: object) -> None:
    raise SystemExit(143)  # in contrast to the usual end of a process, this removes the copy


def _folders(parts: Sequence[Settings], runs: Path) -> list[Path]:
    """Return the sweep's own folder, and the shared ones of dense networks and fronts that it may need."""
    sweeps = [part.sweep for part in parts]
    names = {f"{sweep.dataset}_{sweep.model}_".replace("/", "-").replace(":", "-") for sweep in sweeps}
    shared = [path for kind in ("dense", "fronts") for path in (runs / kind).glob("*/")]
    found = [path for path in shared if any(path.name.startswith(name) for name in names)]
    return [path for path in (runs / parts[0].run.name, *found) if path.is_dir()]
