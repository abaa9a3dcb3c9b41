"""Small runs of four kinds, each of a few tenths of a second, and their results for a comparison bit by bit."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import sklearn.datasets
import torch.utils.tensorboard  # noqa: F401 (imported before the forks)

from masksearch.cli import main
from masksearch.searching.history_store import HistoryFile
from masksearch.training import training_loop

__all__ = ["KINDS", "command", "job", "job_without_threads", "prepare", "results"]

_SMALL = (
    "--model lenet_300_100:0.05 --seeds 1 --sparsity 0.8 --epochs 3 --lr 0.1 --train-examples 150 --search-examples 30 "
    "--device cpu --threads 1 --executor inline --set scoring.val_examples=60 run.latency_seconds=0"
)
KINDS: Mapping[str, str] = {
    "search": f"--methods annealing --budget 40 --rewind-to 1ep {_SMALL}",
    "rounds": f"--methods magnitude snip --schedule iterative --rounds 2 --rewind-to 1ep {_SMALL}",
    "early bird": f"--methods magnitude --schedule early_bird {_SMALL}",
    "filters": f"--granularity filter --methods optuna_tpe --budget 12 {_SMALL}",
}
"""Kind of run -> flags of ``masksearch run``."""


def prepare() -> None:
    """Import what runs import, write checkpoints often, and draw no report: called once, before the forks."""
    import optuna.storages  # noqa: F401
    import torch._dynamo  # noqa: F401

    import masksearch.cli.result_commands
    import masksearch.experiment.tensorboard
    import masksearch.report.html_page
    import masksearch.searchers.optuna.study_storage

    bunch = sklearn.datasets.load_digits()
    sklearn.datasets.load_digits = lambda: bunch
    HistoryFile.checkpoint_seconds = 0.0
    training_loop.CHECKPOINT_SECONDS = 0.0
    masksearch.cli.run_command.print_result = lambda *_: None
    masksearch.report.html_page.sweep_drawings = lambda *_: []


def command(kind: str, runs: Path) -> list[str]:
    """Return the command line of a kind of run."""
    return ["run", *KINDS[kind].split(), "--runs", str(runs), "--name", "sweep"]


def job(args: list[str]) -> Callable[[], int]:
    """Return the job that runs a command line."""
    return lambda: main(args)


def job_without_threads(args: list[str]) -> Callable[[], int]:
    """Return the job that runs a command line without threads for TensorBoard's events and for progress bars.

    Its process may be forked at any moment.
    """

    def run() -> int:
        import rich.live
        from tensorboard.summary.writer import event_file_writer

        event_file_writer._AsyncWriter = _DirectWriter
        rich.live._RefreshThread.start = rich.live._RefreshThread.join = lambda _: None
        return main(args)

    return run


class _DirectWriter:
    """TensorBoard's writer of events without a thread; like that one, it fails for good at the first error."""

    def __init__(self, record_writer: Any, *_: object) -> None:
        self._writer, self._error = record_writer, None

    def write(self, event: bytes) -> None:
        self._do(lambda: self._writer.write(event))

    def flush(self) -> None:
        self._do(self._writer.flush)

    def close(self) -> None:
        self._do(self._writer.flush)
        self._do(self._writer.close)

    def _do(self, work: Callable[[], object]) -> None:
        if self._error is not None:
            raise self._error
        try:
            work()
        except Exception as error:
            self._error = error
            raise


_LEFT_OUT = ("seconds", "latency", "checksum")


def _rows(path: Path) -> Any:
    """Return the rows of a history without wall-clock fields; its bytes, if a line is damaged."""
    content = path.read_bytes()
    try:
        return [_plain(json.loads(line)) for line in content.splitlines()]
    except (ValueError, RecursionError):
        return content


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _plain(value) for name, value in node.items() if name not in _LEFT_OUT}
    return list(map(_plain, node)) if isinstance(node, list) else node


def results(runs: Path) -> dict[str, Any]:
    """Return everything that must be equal to an uninterrupted run, by file: bytes, or JSON without wall-clock fields.

    Seconds are in the history's rows, so that the digest in a search's checkpoint differs from run to run.
    """
    found: dict[str, Any] = {}
    for path in sorted(runs.rglob("*")):
        name = str(path.relative_to(runs))
        if not path.is_file():
            continue
        if (path.suffix == ".safetensors" and path.name != "search.safetensors") or path.name == "moves.i32":
            found[name] = path.read_bytes()
        elif path.name == "history.jsonl":
            found[name] = _rows(path)
        elif path.name in ("metrics.json", "settings.json", "status.json"):
            found[name] = _plain(json.loads(path.read_bytes()))
        elif path.name.endswith(".part"):
            found[name] = "litter"
    return found
