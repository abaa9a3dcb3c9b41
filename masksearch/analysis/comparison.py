"""Comparisons paired by seed: several sweeps, and controls with the methods that they control."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from masksearch.analysis.groups import Group, moment_of
from masksearch.analysis.row_labels import row_labels
from masksearch.analysis.statistics import Estimate
from masksearch.experiment import SweepResult
from masksearch.experiment.results import CellResult

__all__ = ["CellKind", "ControlRow", "PairedRow", "control_rows", "different_settings", "paired_rows"]


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
    tickets = {_ticket(cell): _accuracy(cell) for group in groups for cell in group.cells if cell.control == "none"}
    rows = []
    for group in groups:
        if group.control == "none":
            continue
        pairs = [(tickets[_ticket(cell)], _accuracy(cell)) for cell in group.cells if _ticket(cell) in tickets]
        if pairs:
            whole = [(control, ticket) for ticket, control in pairs if None not in (ticket, control)]
            difference = Estimate.of_differences(whole)
            treated, control = (Estimate.of(side) for side in zip(*pairs, strict=True))
            rows.append(ControlRow(group, treated, control, difference))
    return rows


def _ticket(cell: CellResult) -> str:
    """The identity that a control and its ticket have in common: everything but the control."""
    return json.dumps({**cell.identity, "control": "none"}, sort_keys=True)


def _accuracy(cell: CellResult) -> float | None:
    return cell.trained.test_accuracy


@dataclass(frozen=True)
class CellKind:
    """What cells of several sweeps have in common, seeds aside."""

    method: str
    sparsity: float
    find_at: str  # "early" where the schedule finds it
    schedule: str
    n_rounds: int
    rewind_to: str
    retrain_lr: float | None
    control: str
    granularity: str
    label: str = ""  # settings, where cells of one sweep differ in them

    @classmethod
    def of(cls, cell: CellResult) -> "CellKind":
        """The kind of a cell, without a label."""
        values = {item.name: getattr(cell, item.name) for item in fields(cls) if item.name != "label"}
        return cls(**values | {"find_at": moment_of(cell)})


@dataclass(frozen=True)
class PairedRow:
    """One kind of cell in every sweep, over seeds."""

    kind: CellKind
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
        for group, values in part.as_dict().items():
            for name, value in values.items():
                text = _text(value)
                known = flat.setdefault(f"{group}.{name}", text)
                if text not in known.split(" | "):
                    flat[f"{group}.{name}"] = f"{known} | {text}"
    return flat | {f"machine.{name}": value for name, value in result.machine.items()}


def _text(value: object) -> str:
    if value is None or value in ([], ()):  # the help of every setting says what it means then
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def paired_rows(results: Sequence[SweepResult]) -> list[PairedRow]:
    """A row for each kind of cell that any of the sweeps has, by sparsity, in the order of the first that has it.

    Cells match where their kinds are equal. A difference is taken seed by seed, since equal seeds share splits, order
    and initial weights where the settings agree.
    """
    sweeps = list(map(_accuracies, results))
    rows = []
    for kind in sorted(dict.fromkeys(kind for sweep in sweeps for kind in sweep), key=lambda kind: kind.sparsity):
        values = [sweep.get(kind, {}) for sweep in sweeps]
        first = values[0]
        pairs = [[(own[seed], first[seed]) for seed in sorted(own) if seed in first] for own in values[1:]]
        trained = tuple(Estimate.of(own.values()) for own in values)
        rows.append(PairedRow(kind, trained, tuple(map(Estimate.of_differences, pairs))))
    return rows


def _accuracies(result: SweepResult) -> dict[CellKind, dict[int, float | None]]:
    """Test accuracies after the last epoch of a sweep's cells, by kind and seed."""
    kinds = list(map(CellKind.of, result.cells))
    found: dict[CellKind, dict[int, float | None]] = {}
    for cell, kind, label in zip(result.cells, kinds, row_labels(result.cells, kinds), strict=True):
        found.setdefault(replace(kind, label=label), {})[cell.seed] = cell.trained.test_accuracy
    return found
