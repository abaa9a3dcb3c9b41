"""Files of a search: one row per scored mask, moves of the current mask, and checkpoints to resume from."""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import torch

from masksearch.core.history import History
from masksearch.core.mask import Mask, Move, unpacked_bits
from masksearch.core.problem_and_trials import LARGER_BUDGETS, Budget, Score, Trial
from masksearch.core.space import MaskSpace
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tree, named, remove_litter, save_tree
from masksearch.utils.integrity import RunningDigest, check_object, folder_remedy, refusing

_CHECKPOINT, _ROWS, _MOVES = "search.safetensors", "history.jsonl", "moves.i32"
EXAMPLES = "examples"
"""Key in a search's identity of the digest of the examples on which masks are scored; absent if it is unknown."""
_HASH = re.compile("[0-9a-f]{16}")


class _Row(msgspec.Struct):
    """A line of ``history.jsonl``: numbers that are not finite are null."""

    number: int
    score: float | None
    exact: bool
    best: bool
    repeat: bool
    mask: str
    images: int
    metrics: dict[str, float | None]
    seconds: float
    cost: float | None = None
    counts: bool = True
    move: tuple[int, int] | None = None
    incumbent: str | None = None

    @property
    def trial(self) -> Trial:
        """Trial (scored mask) that this row of a search's history file describes; the mask itself is not in the row."""
        score = Score(_plain(self.score), self.exact, self.seconds, self.images, self.cost, self.counts)
        metrics = {name: _plain(value) for name, value in self.metrics.items()}
        return Trial(self.number, score, int(self.mask, 16), self.best, self.repeat, metrics)


def _plain(value: float | None) -> float:
    return math.nan if value is None else value


class HistoryFile:
    """Files in a folder from which a search can resume: the scored masks and the searcher's state.

    - ``history.jsonl``: one row per trial.
    - ``moves.i32``: the moves of the searcher's current mask (incumbent) in the order of the rows: little-endian int32
      unit indices. The row of a move has ``move``: [units dropped, units regrown]. If the move leads to another mask
      than the row's (a chain continues from the mask of another chain), the row has the hash of that mask as
      ``incumbent``.
    - ``search.safetensors``, the checkpoint: the search's identity with all its budgets, the searcher's state, the
      masks of the best trials and of the front, and lengths and digests of the other two files. A resumed search cuts
      off rows and moves that are later than the checkpoint, and makes the same rows and moves again.

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
        remove_litter(folder)
        self._rows: BinaryIO
        self._moves: BinaryIO
        self._rows_digest, self._moves_digest = RunningDigest(), RunningDigest()
        self.waiting: list[Mask] = []  # masks that waited for their scores at the checkpoint from which this resumes

    def open(self, space: MaskSpace, keep: int) -> tuple[History, dict[str, Any] | None]:
        """Open a search's files; return its history and its searcher's state, which is None if nothing can be resumed.

        Raises
        ------
        InputError
            If the folder holds another search, or a file in it is damaged.
        """
        history, state, ends = History(keep), None, (0, 0)
        saved = _saved(self._folder)
        if saved is not None:
            with refusing(self._folder / _CHECKPOINT, folder_remedy(self._folder)):
                if difference := _difference(saved["identity"], self._identity):
                    raise InputError(f"{self._folder}: holds another search: {difference}; give another folder")
                before, now = (identity.get(EXAMPLES) for identity in (saved["identity"], self._identity))
                if None not in (before, now) and before != now:  # version 1.0 and before saved none
                    raise InputError(
                        f"{self._folder}: holds a search on other examples; restore the data, give another folder, or "
                        f"{folder_remedy(self._folder)}"
                    )
                state, ends = saved["searcher"], (saved["rows_end"], saved["moves_end"])
            rows, self._rows_digest = _rows(self._folder, saved)
            self._moves_digest = RunningDigest.of(_beginning(self._folder, _MOVES, saved))
            with refusing(self._folder / _CHECKPOINT, folder_remedy(self._folder)):
                masks = self._masks(space, saved, rows)
                first = _unpack(space, saved["first"], self._folder)
                self.waiting = [_unpack(space, bits, self._folder) for bits in saved.get("waiting", [])]
                history = History.restored([row.trial for row in rows], masks, first, keep)
        self._rows = _cut(self._folder / _ROWS, ends[0])
        self._moves = _cut(self._folder / _MOVES, ends[1])
        return history, state

    def _masks(self, space: MaskSpace, saved: dict[str, Any], rows: list[_Row]) -> dict[int, Mask]:
        """The masks in a checkpoint by trial number; each must be the mask of its row."""
        masks = {number: _unpack(space, bits, self._folder) for number, bits in saved["masks"].items()}
        for number, mask in masks.items():
            if f"{mask.hash:016x}" != rows[number].mask:
                raise InputError(
                    f"{self._folder / _CHECKPOINT} has another mask for trial {number} than {_ROWS}; "
                    f"{folder_remedy(self._folder)}"
                )
        return masks

    def append(self, trial: Trial, move: Move | None, incumbent: Mask | None = None) -> None:
        """Append a scored mask to the files; ``move`` is the change of the searcher's current mask, if any."""
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
            units = np.concatenate([move.dropped, move.regrown]).astype("<i4").tobytes()
            self._moves_digest.update(units)
        line = json.dumps(row).encode() + b"\n"
        self._rows_digest.update(line)
        try:
            if move is not None:
                self._moves.write(units)
            self._rows.write(line)
        except OSError as error:
            raise named(error, self._folder / _ROWS) from None

    def checkpoint(self, history: History, searcher_state: dict[str, Any] | None, waiting: Iterable[Mask] = ()) -> None:
        """Write a checkpoint from which the search can resume, unless ``searcher_state`` is None.

        The resumed search scores the masks that were ``waiting`` for their scores first.
        """
        for handle, name in ((self._rows, _ROWS), (self._moves, _MOVES)):
            try:
                handle.flush()
                os.fsync(handle.fileno())
            except OSError as error:
                raise named(error, self._folder / name) from None
        kept = [*history.top, *history.front] if history.has_best else []
        tree: dict[str, Any] = {
            "identity": self._identity,
            "searcher": searcher_state,
            "rows_end": self._rows.tell(),
            "moves_end": self._moves.tell(),
            "rows_digest": self._rows_digest.value,
            "moves_digest": self._moves_digest.value,
            "first": _pack(history.first),
            "masks": {trial.number: _pack(trial.mask) for trial in kept},
        }
        if packed := [_pack(mask) for mask in waiting]:
            tree["waiting"] = packed
        save_tree(self._folder / _CHECKPOINT, tree)

    def close(self) -> None:
        """Close a search's files. Errors of the disk are ignored, since the last checkpoint is complete."""
        for handle in (self._rows, self._moves):
            with suppress(OSError):
                handle.close()


def read_rows(folder: Path) -> list[Trial]:
    """Return the trials of a search from its folder: scores and other values, but not the masks themselves.

    An incomplete last line, of a running or killed search, is left out.

    Raises
    ------
    InputError
        If a line is no row of a search, or the file differs from the digest in the search's checkpoint.
    """
    rows, _ = _rows(folder, _saved(folder), whole=True)
    return [row.trial for row in rows]


def saved_budgets(folder: Path) -> tuple[Budget, ...]:
    """Return all budgets of the search in a folder, smallest first; an empty tuple before its first checkpoint."""
    saved = _saved(folder)
    if saved is None:
        return ()
    with refusing(folder / _CHECKPOINT, folder_remedy(folder)):
        identity = saved["identity"]
        return tuple(Budget(*limits) for limits in (identity["budget"], *identity.get(LARGER_BUDGETS, [])))


def _saved(folder: Path) -> dict[str, Any] | None:
    """Return the content of a search's checkpoint, with its names and types checked; None if there is none."""
    path = folder / _CHECKPOINT
    if not path.exists():
        return None
    saved = load_tree(path, folder_remedy(folder))
    needed = {"identity": dict, "rows_end": int, "moves_end": int, "masks": dict, "first": np.ndarray}
    check_object(saved, path, needed, folder_remedy(folder))
    if "searcher" not in saved:
        raise InputError(f"{path} has no 'searcher'; {folder_remedy(folder)}")
    return dict(saved)


def _beginning(folder: Path, name: str, saved: dict[str, Any]) -> bytes:
    """Return the bytes of a file that a checkpoint covers, after a check of their length and digest."""
    path, end = folder / name, saved["rows_end" if name == _ROWS else "moves_end"]
    try:
        with path.open("rb") as source:
            content = source.read(max(end, 0))
    except FileNotFoundError:
        raise InputError(f"{path} is missing, and {_CHECKPOINT} beside it needs it; {folder_remedy(folder)}") from None
    if len(content) != end:
        raise InputError(
            f"{path} has {len(content):,} bytes, and {_CHECKPOINT} beside it needs {end:,}; {folder_remedy(folder)}"
        )
    digest = saved.get("rows_digest" if name == _ROWS else "moves_digest")  # none in version 1.0 and before
    if digest is not None and digest != RunningDigest.of(content).value:
        raise InputError(
            f"{path} is damaged or was changed: its digest is not that of {_CHECKPOINT}; {folder_remedy(folder)}"
        )
    return content


def _rows(folder: Path, saved: dict[str, Any] | None, *, whole: bool = False) -> tuple[list[_Row], RunningDigest]:
    """Return the rows of a search that its checkpoint covers, or all rows, with the digest of their bytes."""
    path = folder / _ROWS
    covered = b"" if saved is None else _beginning(folder, _ROWS, saved)
    content = path.read_bytes() if whole else covered
    rows = []
    with refusing(path, folder_remedy(folder)):
        for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines()):
            row = msgspec.convert(json.loads(line), _Row)
            if row.number != number or not _HASH.fullmatch(row.mask):
                raise InputError(
                    f"{path} has row {row.number} with mask {row.mask[:20]!r} in line {number + 1}; "
                    f"{folder_remedy(folder)}"
                )
            rows.append(row)
    return rows, RunningDigest.of(covered)


def incumbents(folder: Path, space: MaskSpace, number: int) -> Iterator[tuple[int, Mask]]:
    """Yield (trial number, the searcher's current mask after it) at ``number`` evenly spaced trials of a search.

    Masks are restored from the first mask and the saved moves. Searchers without a current mask yield nothing.

    Parameters
    ----------
    space : MaskSpace
        The space of the search.
    """
    saved = _saved(folder)
    if saved is None:
        raise InputError(f"no file {folder / _CHECKPOINT}; {folder_remedy(folder)}")
    rows, _ = _rows(folder, saved)
    moves = np.frombuffer(_beginning(folder, _MOVES, saved), "<i4")
    counts = [row.move for row in rows if row.move is not None]
    if any(count < 0 for pair in counts for count in pair) or sum(map(sum, counts)) != len(moves):
        raise InputError(f"{folder / _MOVES} has other moves than {_ROWS} lists; {folder_remedy(folder)}")
    if len(moves) and not 0 <= moves.min() <= moves.max() < space.n_units:
        raise InputError(f"{folder / _MOVES} has units outside of this {space.describe()}; {folder_remedy(folder)}")
    wanted = set(np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int).tolist())
    bits = unpacked_bits(saved["first"], space.n_units, folder / _CHECKPOINT, folder_remedy(folder)).copy()
    place, expected = 0, ""
    for row in rows:
        if row.move is not None:
            middle = place + row.move[0]
            end = middle + row.move[1]
            if row.number:  # the first row's move leads to the first mask, which ``bits`` has already
                bits[moves[place:middle]], bits[moves[middle:end]] = False, True
            place, expected = end, row.incumbent or row.mask
        if expected and row.number in wanted:
            mask = Mask(space, torch.from_numpy(bits.copy()))
            if f"{mask.hash:016x}" != expected:
                return  # the searcher returned to an earlier mask, which the moves don't record
            yield row.number, mask


def _pack(mask: Mask | None) -> np.ndarray:
    assert mask is not None, "the first mask, those of the best few and of the front are kept"
    return np.packbits(mask.bits.numpy())


def _unpack(space: MaskSpace, packed: object, folder: Path) -> Mask:
    path = folder / _CHECKPOINT
    return Mask(space, torch.from_numpy(unpacked_bits(packed, space.n_units, path, folder_remedy(folder))))


def _cut(path: Path, end: int) -> BinaryIO:
    path.touch()
    handle = path.open("r+b")
    handle.truncate(end)
    handle.seek(end)
    return handle


def _difference(saved: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return the values that differ, as text, without the larger budgets and the digest of the examples."""
    names = [name for name in {**saved, **wanted} if name not in (EXAMPLES, LARGER_BUDGETS)]
    names = [name for name in names if saved.get(name) != wanted.get(name)]
    return "; ".join(f"its {name} is {saved.get(name)}, and this search has {wanted.get(name)}" for name in names)
