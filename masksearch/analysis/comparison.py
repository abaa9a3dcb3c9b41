"""Comparisons paired by seed: several sweeps, and controls with the methods that they control."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masksearch.analysis.groups import Group, moment_of
from masksearch.analysis.row_labels import told_apart
from masksearch.analysis.statistics import Estimate
from masksearch.experiment import SweepResult

__all__ = ["ControlRow", "PairedRow", "control_rows", "different_settings", "paired_rows"]


@dataclass(frozen=True)
class ControlRow:
    """A control over all seeds that its ticket is finished for, too; test accuracies after the last epoch."""

    group: Group
    treated: Estimate  # the ticket as it is
    control: Estimate
    difference: Estimate  # control minus ticket, seed by seed


def control_rows(groups: Iterable[Group]) -> list[ControlRow]:
    """A row for every group of controls, in their order; those without a ticket that is finished are left out."""
    groups = list(groups)
    tickets = {_ticket(cell): _accuracy(cell) for group in groups for cell in group.cells if cell["control"] == "none"}
    rows = []
    for group in groups:
        if group.control == "none":
            continue
        pairs = [(tickets[_ticket(cell)], _accuracy(cell)) for cell in group.cells if _ticket(cell) in tickets]
        if pairs:
            whole = [(one, other) for one, other in pairs if one is not None and other is not None]
            difference = Estimate.of(other - one for one, other in whole)
            treated, control = (Estimate.of(side) for side in zip(*pairs, strict=True))
            rows.append(ControlRow(group, treated, control, difference))
    return rows


def _ticket(cell: Mapping[str, Any]) -> str:
    """What a control and its ticket have in common: all that decides the result, but for the control."""
    return json.dumps(cell["settings"] | {"control": "none"}, sort_keys=True)


def _accuracy(cell: Mapping[str, Any]) -> float | None:
    return cell["trained"]["test_accuracy"]


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
