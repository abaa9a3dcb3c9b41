"""Comparisons paired by seed: several sweeps with each other, and control networks with masked networks."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from masksearch.analysis.seed_groups import Group, moment_of, setting_labels
from masksearch.analysis.statistics import Estimate
from masksearch.experiment import Settings, SweepResult
from masksearch.experiment.cell_results import CellResult


@dataclass(frozen=True)
class ControlRow:
    """Mean test metrics, over equal seeds, of a control network (say, with a shuffled mask) and its masked network."""

    group: Group
    treated: Estimate  # the ticket as it is
    control: Estimate
    difference: Estimate  # control minus ticket, seed by seed


def control_rows(groups: Iterable[Group]) -> list[ControlRow]:
    """Return rows that compare control networks, as means over seeds, with the masked networks that they control."""
    groups = list(groups)
    tickets = {_ticket(c): c.trained.test_accuracy for group in groups for c in group.cells if c.control == "none"}
    rows = []
    for group in groups:
        known = [(cell.trained.test_accuracy, _ticket(cell)) for cell in group.cells if _ticket(cell) in tickets]
        pairs = [(control, tickets[ticket]) for control, ticket in known]
        if pairs and group.control != "none":
            control, treated = (Estimate.of(side) for side in zip(*pairs, strict=True))
            difference = Estimate.of_differences(pair for pair in pairs if None not in pair)
            rows.append(ControlRow(group, treated, control, difference))
    return rows


def _ticket(cell: CellResult) -> str:
    """Return a text that is equal for a cell and its controls: its identity without the control."""
    return json.dumps({**cell.identity, "control": "none"}, sort_keys=True)


@dataclass(frozen=True)
class CellKind:
    """Method, sparsity, schedule and other properties, all but the seed, by which results of sweeps are matched."""

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
        """Return the method, sparsity and other properties by which a run's result is matched with other sweeps."""
        values = {item.name: getattr(cell, item.name) for item in fields(cls) if item.name != "label"}
        return cls(**values | {"find_at": moment_of(cell)})


@dataclass(frozen=True)
class PairedRow:
    """Test metrics, as means over seeds, of one method, sparsity and schedule in each of several sweeps."""

    kind: CellKind
    trained: tuple[Estimate, ...]  # test metric after the last epoch, of every sweep; without numbers: no such cell
    difference: tuple[Estimate, ...]  # to the first sweep, over the seeds that both have


def settings_texts(parts: Sequence[Settings], nothing: str | None = None) -> dict[str, dict[str, str]]:
    """Return all settings of a sweep as text, {group of settings, such as "train": {name of a setting: its value}}.

    Where ``parts`` have different values of a setting, its text lists them all.

    Parameters
    ----------
    nothing : str, optional
        Text of None and of empty sequences; if not given, ``None`` and the empty text.
    """
    merged: dict[str, dict[str, str]] = {}
    for part in parts:
        for group, values in part.as_dict().items():
            texts = merged.setdefault(group, {})
            for name, value in values.items():
                text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
                if nothing is not None and value in (None, [], ()):
                    text = nothing
                known = texts.setdefault(name, text)
                if text not in known.split(" | "):
                    texts[name] = f"{known} | {text}"
    return merged


def different_settings(results: Sequence[SweepResult]) -> dict[str, tuple[str, ...]]:
    """Return the settings, versions and machine properties in which sweeps differ, as {name: values, one per sweep}."""
    flat = []
    for result in results:
        groups = settings_texts(result.settings, nothing="not given") | {"machine": result.machine}
        flat.append({f"{group}.{name}": text for group, values in groups.items() for name, text in values.items()})
    names = dict.fromkeys(name for one in flat for name in one)
    rows = {name: tuple(one.get(name, "–") for one in flat) for name in names}
    return {name: values for name, values in rows.items() if len(set(values)) > 1}


def paired_rows(results: Sequence[SweepResult]) -> list[PairedRow]:
    """Return the test metrics of several sweeps, one row per method and settings, with differences to the first sweep.

    Equal seeds share splits, order and initial weights where the settings agree. Rows are in order of sparsity.
    """
    sweeps = list(map(_accuracies, results))
    rows = []
    for kind in sorted(dict.fromkeys(kind for sweep in sweeps for kind in sweep), key=lambda kind: kind.sparsity):
        first, *others = values = [sweep.get(kind, {}) for sweep in sweeps]
        pairs = [[(own[seed], first[seed]) for seed in sorted(own) if seed in first] for own in others]
        trained = tuple(Estimate.of(own.values()) for own in values)
        rows.append(PairedRow(kind, trained, tuple(map(Estimate.of_differences, pairs))))
    return rows


def _accuracies(result: SweepResult) -> dict[CellKind, dict[int, float | None]]:
    """Test metrics after the last epoch of a sweep's cells, by kind and seed."""
    kinds = list(map(CellKind.of, result.cells))
    found: dict[CellKind, dict[int, float | None]] = {}
    for cell, kind, label in zip(result.cells, kinds, setting_labels(result.cells, kinds), strict=True):
        found.setdefault(replace(kind, label=label), {})[cell.seed] = cell.trained.test_accuracy
    return found
