"""Identity: which fields of the settings decide a cell's result, and the hash that names the cell's folder.

A field decides the results of all cells unless a table below says otherwise, so that a new setting can't be forgotten.
Fields at their default are left out of the hash: adding a setting renames no folder. Hence a default must never change.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, NamedTuple, NotRequired, TypedDict

Deciding = dict[str, dict[str, object]]
"""Settings as {group: {field: value}}."""


class DenseIdentity(TypedDict):
    """Values (settings and hashes) that decide the trained weights of one seed's dense (unpruned) network."""

    dataset: str
    train_examples: int | None
    val_examples: int | None
    model: str
    training: dict[str, object]  # settings that differ from their defaults
    seed: int
    image_size: NotRequired[int]
    text_length: NotRequired[int]
    devices: NotRequired[int]
    data: NotRequired[str]  # digest of examples and task
    file: NotRequired[str]  # digest of given weights, or the path of a file that does not exist
    model_source: NotRequired[str]
    train_fn: NotRequired[list[str]]  # name and digest of its source
    plugin: NotRequired[list[str]]  # digests


class CellIdentity(TypedDict):
    """Values (settings and hashes) that decide the result of one run of a sweep, without settings at their default."""

    dense: DenseIdentity
    method: str
    sparsity: float
    find_at: str
    hold: str
    schedule: str
    rounds: int
    rewind_to: str
    retrain_lr: float | None
    control: str
    epochs: list[int | None]  # after each round; None: all that the dense training has left
    settings: Deciding
    front: NotRequired[str]  # cost of a search of a Pareto front
    capped: NotRequired[str]  # cost with an upper bound, in all other cells of a sweep with bounds
    distill: NotRequired[list[float | None]]  # weight and temperature
    rescore_plugin: NotRequired[str]
    plugin: NotRequired[list[str]]


NEVER = frozenset(
    {
        # The axes of the grid: a cell has one value of each, which is part of its identity.
        "sweep.methods",
        "sweep.sparsity",
        "sweep.max_macs",
        "sweep.max_params",
        "sweep.max_latency",
        "sweep.seeds",
        "sweep.first_seed",
        "sweep.find_at",
        # A check of the data, which decides its task.
        "sweep.task",
        "schedules.schedule",
        "schedules.rounds",
        "schedules.rewind_to",
        "schedules.retrain_lr",
        "schedules.retrain_distill",
        "schedules.retrain_temperature",
        "schedules.control",
        # The cell's identity has the resolved values of these.
        "schedules.retrain_epochs",
        "schedules.between_epochs",
        "scoring.hold",
        # Where a study is stored, and everything about where and how a sweep runs.
        "optuna.storage",
        "run",
    }
)
"""Groups and fields of settings that are not among the settings that decide a cell's result."""

DENSE = frozenset(
    {
        "sweep.dataset",
        "sweep.image_size",
        "sweep.text_length",
        "sweep.model",
        "sweep.dense",
        "sweep.train_fn",
        "sweep.devices",
        "scoring.train_examples",
        "scoring.val_examples",
        "train",
    }
)
"""Groups and fields that decide what the dense network is; they are part of its identity."""

ONLY_IF = {
    "sweep.budget": "searches",
    "scoring.seconds": "searches",
    "scoring.scope": "uses_criteria",
    "scoring.examples_per_class": "uses_criteria",
    "scoring.calibration_examples": "repairs",
    "search": "searches",
    "search.training_steps": "trains_to_score",
    "search.training_lr": "trains_to_score",
    "search.rescore_steps": "rescores",
    "annealing": "anneals",
    "optuna": "samples_with_optuna",
    "supermask": "learns",
    "train.distill_temperature": "distills",
    "schedules.update_every": "changes_masks",
    "schedules.drop_share": "changes_masks",
    "schedules.early_bird_threshold": "detects_early_birds",
    "schedules.early_bird_relative": "detects_early_birds",
}
"""Groups and fields that decide the results of some cells only, as {name: condition in ``Cell.conditions``}."""


def deciding_fields(
    settings: Any, conditions: Mapping[str, bool], *, usual: Mapping[str, object], complete: bool
) -> Deciding:
    """Return those of a sweep's settings that decide the result of one of its runs, as {group: {field: value}}.

    Parameters
    ----------
    conditions : mapping
        Whether each condition of :data:`ONLY_IF` holds.
    usual : mapping
        Values that stand for defaults, by ``group.field``: defaults that depend on other settings.
    complete : bool
        Whether fields at their default and those of the dense network are included, as for readers of a run folder.
    """
    found: Deciding = {}
    left_out = NEVER if complete else NEVER | DENSE
    for group in (row.name for row in _rows(type(settings), "")):
        values = getattr(settings, group)
        for name, key, default, condition in _rows(type(values), group):
            if group in left_out or key in left_out or not (condition is None or conditions[condition]):
                continue
            value = getattr(values, name)
            if complete or value != usual.get(key, default):
                found.setdefault(group, {})[name] = _plain(value)
    return found


class _Row(NamedTuple):
    """Field of a group of settings: its name, ``group.name``, default and condition."""

    name: str
    key: str
    default: Any
    condition: str | None


_ROWS: dict[tuple[type, str], list[_Row]] = {}


def _rows(kind: type, group: str) -> list[_Row]:
    """Return the fields of a group of settings, or of all settings."""
    if (kind, group) not in _ROWS:
        keys = {item: f"{group}.{item.name}" for item in fields(kind)}
        _ROWS[kind, group] = [
            _Row(item.name, key, _default(item), ONLY_IF.get(key, ONLY_IF.get(group))) for item, key in keys.items()
        ]
    return _ROWS[kind, group]


def changed_fields(values: Any) -> dict[str, object]:
    """Return {field: value} for those fields of a dataclass that differ from their defaults, ready for JSON."""
    rows = ((name, getattr(values, name), default) for name, _, default, _ in _rows(type(values), ""))
    return {name: _plain(value) for name, value, default in rows if value != default}


def without(identity: Mapping[str, Any], names: Iterable[str]) -> dict[str, object]:
    """Return a copy of a run's identity (what decides its result) without the entries and settings in ``names``."""
    left = {name: value for name, value in identity.items() if name not in set(names)}
    groups = {
        group: {name: value for name, value in values.items() if f"{group}.{name}" not in set(names)}
        for group, values in identity["settings"].items()
    }
    left["settings"] = {group: values for group, values in groups.items() if values}
    return left


def _plain(value: Any) -> Any:
    """A setting's value as JSON reads it back."""
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def short_hash(identity: Mapping[str, Any]) -> str:
    """Return the first 8 hex digits of the SHA-256 of ``identity``, written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _default(item: "Field[Any]") -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return item.default
