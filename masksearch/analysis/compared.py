"""Several sweeps beside one another: settings that differ, and results paired where the cells match."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masksearch.analysis.apart import told_apart
from masksearch.analysis.estimate import Estimate
from masksearch.analysis.groups import moment_of
from masksearch.experiment import SweepResult

__all__ = ["PairedRow", "different_settings", "paired_rows"]

_KEY = ("method", "sparsity", "find_at", "schedule", "n_rounds", "rewind_to", "retrain_lr", "control", "granularity")


@dataclass(frozen=True)
class PairedRow:
    """One kind of cell in every sweep, over seeds."""

    key: Mapping[str, Any]  # what the cells have in common
    trained: tuple[Estimate, ...]  # test accuracy after the last epoch, of every sweep; without numbers: no such cell
    difference: tuple[Estimate, ...]  # to the first sweep, over the seeds that both have


def different_settings(results: Sequence[SweepResult]) -> dict[str, tuple[str, ...]]:
    """Names of settings, versions and machine properties that differ, with the value in every sweep."""
    flat = [_flat(result) for result in results]
    names = dict.fromkeys(name for one in flat for name in one)
    rows = {name: tuple(one.get(name, "–") for one in flat) for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def _flat(result: SweepResult) -> dict[str, str]:
    flat: dict[str, str] = {}
    for part in result.settings:
        for group, values in part.items():
            for name, value in values.items():
                text = _text(value)
                known = flat.setdefault(f"{group}.{name}", text)
                if text not in known.split(" | "):
                    flat[f"{group}.{name}"] = f"{known} | {text}"
    return flat | {f"machine.{name}": value for name, value in result.machine.items()}


def _text(value: Any) -> str:
    if value is None or value in ([], ()):  # what it means then, every setting's help says
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def paired_rows(results: Sequence[SweepResult]) -> list[PairedRow]:
    """A row for each kind of cell that any of the sweeps has, in the order of the first that has it.

    Cells match where method, sparsity, moment, schedule, rounds, rewinding, rate and control are equal, and what tells
    the parts of each sweep apart; a difference is taken seed by seed, since equal seeds share splits, order and initial
    weights where the settings agree.
    """
    by_key: list[dict[tuple[Any, ...], dict[int, float]]] = []
    for result in results:
        cells: dict[tuple[Any, ...], dict[int, float]] = {}
        keys = [tuple(moment_of(cell) if name == "find_at" else cell[name] for name in _KEY) for cell in result.cells]
        for cell, key, words in zip(result.cells, keys, told_apart(result.cells, keys), strict=True):
            cells.setdefault((*key, words), {})[cell["seed"]] = cell["trained"]["test_accuracy"]
        by_key.append(cells)
    rows = []
    for key in sorted(dict.fromkeys(key for cells in by_key for key in cells), key=lambda key: key[1]):
        values = [cells.get(key, {}) for cells in by_key]
        first = values[0]
        differences = (
            Estimate.of(own[seed] - first[seed] for seed in sorted(own) if seed in first) for own in values[1:]
        )
        rows.append(
            PairedRow(
                dict(zip((*_KEY, "part"), key, strict=True)),
                tuple(Estimate.of(own.values()) for own in values),
                tuple(differences),
            )
        )
    return rows
