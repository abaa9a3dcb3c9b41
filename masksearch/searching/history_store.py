"""Files of a search: one row per scored mask, moves of the current mask, and checkpoints to resume from."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from masksearch.core.history import History
from masksearch.core.mask import Mask, Move
from masksearch.core.protocol import LARGER_BUDGETS, Budget, Score, Trial
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tree, save_tree

__all__ = ["HistoryFile", "incumbents", "read_rows", "saved_budgets"]

_CHECKPOINT = "search.safetensors"


class HistoryFile:
    """Files of a search in a folder: its scored masks (trials) and the searcher's state, to resume from.

    - ``history.jsonl``: one row per trial.
    - ``moves.i32``: the moves of the searcher's current mask (incumbent) in the order of the rows: little-endian int32
      unit indices. The row of a move has ``move``: [units dropped, units regrown]. If the move leads to another mask
      than the row's (a chain continues from the mask of another chain), the row has the hash of that mask as
      ``incumbent``.
    - ``search.safetensors``, the checkpoint: the search's identity with all its budgets, the searcher's state, the
      masks of the best trials and of the front, and the lengths of the other two files. A resumed search cuts off rows
      and moves that are later than the checkpoint, and makes the same rows and moves again.

    Parameters
    ----------
    folder : Path
        Folder of the files; it is made if it doesn't exist.
    identity : dict
        Seed, density, searcher, ... of the search; a folder of a search with another identity is refused, unless only
        the larger budgets differ.
    """

    checkpoint_seconds = 10.0
    """Minimum time between two checkpoints, in seconds; a killed search loses the work since the last one."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self._folder, self._identity = folder, identity
        folder.mkdir(parents=True, exist_ok=True)
        self._rows: BinaryIO
        self._moves: BinaryIO

    def open(self, space: MaskSpace, keep: int) -> tuple[History, dict[str, Any] | None]:
        """Open the files; return the saved history, and the saved state of the searcher or None.

        The state is None for a new search, and for one that can't be resumed.

        Raises
        ------
        InputError
            If the folder holds another search.
        """
        checkpoint = self._folder / _CHECKPOINT
        history, state, ends = History(keep), None, (0, 0)
        if checkpoint.exists():
            saved = load_tree(checkpoint)
            if difference := _difference(saved["identity"], self._identity):
                raise InputError(f"{self._folder}: holds another search: {difference}")
            state, ends = saved["searcher"], (saved["rows_end"], saved["moves_end"])
            masks = {number: _unpack(space, bits) for number, bits in saved["masks"].items()}
            history = History.restored(read_rows(self._folder, ends[0]), masks, _unpack(space, saved["first"]), keep)
        self._rows = _cut(self._folder / "history.jsonl", ends[0])
        self._moves = _cut(self._folder / "moves.i32", ends[1])
        return history, state

    def append(self, trial: Trial, move: Move | None, incumbent: Mask | None = None) -> None:
        """Append one scored mask (trial), and the move to the searcher's current mask ``incumbent`` if it changed."""
        row: dict[str, Any] = {
            "number": trial.number,
            "score": None if math.isnan(trial.score.value) else trial.score.value,
            "exact": trial.score.exact,
            "best": trial.is_best,
            "repeat": trial.is_repeat,
            "mask": f"{trial.mask_hash:016x}",
            "images": trial.score.images,
            "metrics": {name: None if math.isnan(value) else value for name, value in trial.metrics.items()},
            "seconds": trial.score.seconds,
        }
        if trial.score.cost is not None:
            row["cost"] = trial.score.cost
        if not trial.score.counts:
            row["counts"] = False
        if move is not None:
            row["move"] = [len(move.dropped), len(move.regrown)]
            if incumbent is not None and incumbent.hash != trial.mask_hash:
                row["incumbent"] = f"{incumbent.hash:016x}"
            self._moves.write(np.concatenate([move.dropped, move.regrown]).astype("<i4").tobytes())
        self._rows.write(json.dumps(row).encode() + b"\n")

    def checkpoint(self, history: History, searcher_state: dict[str, Any] | None) -> None:
        """Save a checkpoint: the searcher's state (None: it can't be resumed), and the lengths of the other files."""
        for handle in (self._rows, self._moves):
            handle.flush()
            os.fsync(handle.fileno())
        kept = [*history.top, *history.front] if history.has_best else []
        tree = {
            "identity": self._identity,
            "searcher": searcher_state,
            "rows_end": self._rows.tell(),
            "moves_end": self._moves.tell(),
            "first": _pack(history.first),
            "masks": {trial.number: _pack(trial.mask) for trial in kept},
        }
        save_tree(self._folder / _CHECKPOINT, tree)

    def close(self) -> None:
        """Close the history files."""
        self._rows.close()
        self._moves.close()


def read_rows(folder: Path, end: int | None = None) -> Iterator[Trial]:
    """Yield the trials (scored masks) in ``history.jsonl`` of a search folder, without the masks themselves.

    Only the first ``end`` bytes are read, by default all. An incomplete last line, of a running or killed search, is
    left out.
    """
    for row in _raw_rows(folder, end):
        value = math.nan if row["score"] is None else row["score"]
        score = Score(value, row["exact"], row["seconds"], row["images"], row.get("cost"), row.get("counts", True))
        metrics = {name: math.nan if value is None else value for name, value in row["metrics"].items()}
        yield Trial(row["number"], score, int(row["mask"], 16), row["best"], row["repeat"], metrics)


def saved_budgets(folder: Path) -> tuple[Budget, ...]:
    """Return all budgets that the search in a folder has had, smallest first; empty before its first checkpoint."""
    checkpoint = folder / _CHECKPOINT
    if not checkpoint.exists():
        return ()
    identity = load_tree(checkpoint)["identity"]
    return tuple(Budget(*limits) for limits in (identity["budget"], *identity.get(LARGER_BUDGETS, [])))


def _raw_rows(folder: Path, end: int | None) -> list[dict[str, Any]]:
    with (folder / "history.jsonl").open("rb") as source:
        content = source.read(-1 if end is None else end)
    return [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]


def incumbents(folder: Path, space: MaskSpace, number: int) -> Iterator[tuple[int, Mask]]:
    """Yield (trial number, the searcher's current mask) at ``number`` evenly spaced trials of a finished search.

    Masks are restored from the first mask and the saved moves. Searchers without a current mask yield nothing.

    Parameters
    ----------
    space : MaskSpace
        The space of the search.
    """
    saved = load_tree(folder / _CHECKPOINT)
    rows = _raw_rows(folder, saved["rows_end"])
    moves = np.fromfile(folder / "moves.i32", "<i4")
    wanted = set(np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int).tolist())
    bits = np.unpackbits(saved["first"], count=space.n_units).astype(bool)
    place, expected = 0, ""
    for row in rows:
        if "move" in row:
            middle = place + row["move"][0]
            end = middle + row["move"][1]
            if row["number"]:  # the first row's move leads to the first mask, which ``bits`` has already
                bits[moves[place:middle]], bits[moves[middle:end]] = False, True
            place, expected = end, row.get("incumbent", row["mask"])
        if expected and row["number"] in wanted:
            mask = Mask(space, torch.from_numpy(bits.copy()))
            if f"{mask.hash:016x}" != expected:
                return  # the searcher returned to an earlier mask, which the moves don't record
            yield row["number"], mask


def _pack(mask: Mask | None) -> np.ndarray:
    assert mask is not None, "the first mask, those of the best few and of the front are kept"
    return np.packbits(mask.bits.numpy())


def _unpack(space: MaskSpace, packed: np.ndarray) -> Mask:
    return Mask(space, torch.from_numpy(np.unpackbits(packed, count=space.n_units).astype(bool)))


def _cut(path: Path, end: int) -> BinaryIO:
    path.touch()
    handle = path.open("r+b")
    handle.truncate(end)
    handle.seek(end)
    return handle


def _difference(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The values that differ, as text, but the larger budgets, which differ where a search goes on to a new one."""
    names = [name for name in {**saved, **wanted} if saved.get(name) != wanted.get(name) and name != LARGER_BUDGETS]
    return "; ".join(f"its {name} is {saved.get(name)}, asked for is {wanted.get(name)}" for name in names)
