"""The settings of a sweep: typed, checked when they are made, and the source of the command line's flags."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_type_hints

from masksearch.core.protocol import Budget
from masksearch.core.space import Hold, OnEmpty, Scope
from masksearch.criteria import CRITERIA
from masksearch.experiment.settings.removed import REMOVED
from masksearch.experiment.settings.schedule_settings import ScheduleSettings, parse_rewind
from masksearch.experiment.settings.search_settings import OptunaSettings, SearchSettings, split_method
from masksearch.experiment.settings.sweep_axes import METHODS, Capped, Granularity, SweepSettings
from masksearch.experiment.settings.toml_values import fitted, fitted_table
from masksearch.plugin import load_plugins
from masksearch.schedules import SCHEDULES
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS, Annealing
from masksearch.spaces import LayerKind
from masksearch.supermasks import SupermaskSettings
from masksearch.training import TrainSettings
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["NESTED", "ON_EMPTY", "SCOPES", "RunSettings", "ScoringSettings", "Settings", "SweepSettings"]

ScoredWeights = Literal["own", "signed_constant"]

SCOPES: dict[Granularity, Scope] = {"weight": "global", "filter": "layerwise"}
"""The usual scope of each granularity: norms of filters differ between layers, and one threshold can empty a layer."""

ON_EMPTY: dict[Granularity, OnEmpty] = {"weight": "allow", "filter": "keep_one"}
"""The usual ``on_empty`` of each granularity: a network without any filter in a layer has constant outputs."""

NESTED = ("annealing", "optuna", "supermask")  # groups whose fields keep the group's name, also as flags


@dataclass(frozen=True)
class ScoringSettings:
    """How masks are found and scored."""

    seconds: float | None = None
    """Seconds per search, for gradual pruning, proposing and scoring; the search also ends at its budget. Results
    then depend on the speed of the machine."""
    search_examples: int | None = None
    """Validation examples that scorers use; if not given, 2,000 or half of the validation examples."""
    train_examples: int | None = None
    """Training examples; all if not given."""
    val_examples: int | None = None
    """Validation examples, including those that scorers use; all if not given."""
    weights: ScoredWeights = "own"
    """Weights that masks are searched on: own, or signed_constant (sign times the layer's standard deviation)."""
    scope: Scope | None = None
    """Ranking of units by a criterion: global (all layers together), layerwise (the same density in each layer), or
    erk (ERK's density in each layer). If not given, global for weights and layerwise for filters."""
    hold: Hold = "units"
    """Quantity that a density of filters is a share of: units, or params or macs of the dense network."""
    on_empty: OnEmpty | None = None
    """Treatment of masks that empty a layer: allow (and report it), keep_one unit in the layer, or raise an error.
    If not given, allow for weights and keep_one for filters."""
    connected: bool = False
    """Replace kept weights on no path from input to output by the next best weights, for criteria and optuna_*."""
    layers: LayerKind = "all"
    """Layers whose weights are units of weight masks: all, conv or linear."""
    examples_per_class: int = 10
    """Training examples of each class that gradient criteria use."""

    def __post_init__(self) -> None:
        choices = {
            "weights": ScoredWeights,
            "scope": Scope,
            "hold": Hold,
            "on_empty": OnEmpty,
            "layers": LayerKind,
        }
        for name, kind in choices.items():
            if getattr(self, name) is not None:
                choose(name, getattr(self, name), list(get_args(kind)))
        if self.seconds is not None:
            Budget(seconds=self.seconds)
        if self.examples_per_class < 1:
            raise InputError(f"examples_per_class: {self.examples_per_class}; at least 1 is needed")


@dataclass(frozen=True)
class RunSettings:
    """Where and how a sweep runs; no setting here changes results."""

    name: str = "sweep"
    """Name of the experiment, and of its folder."""
    plugin: tuple[str, ...] = ()
    """Your own modules, by dotted name or as .py files; each defines a dictionary MASKSEARCH of rows
    (docs/plugins.md)."""
    runs: str = "runs"
    """Folder of all experiments."""
    data_root: str = "data"
    """Folder of the data sets."""
    download: bool = False
    """Download the data set if it is missing."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 or mps; auto uses cuda if available, else cpu."""
    threads: int | None = None
    """CPU threads of all workers together; if not given, PyTorch's choice."""
    workers: int | None = None
    """Processes that run cells at the same time. If not given: one, but as many as threads for networks without
    convolutions below 1,000,000 parameters, which calculate on one thread each."""
    deterministic: bool = False
    """Use deterministic algorithms only; on CUDA some are slower."""
    latency_seconds: float = 0.15
    """Seconds of each latency measurement of a ticket and the dense network together; at least 11 runs of each."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise InputError(f"name: {self.name!r}; a folder name is needed, without / and not beginning with a dot")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads: {self.threads}; at least 1 is needed")
        if not 0 <= self.latency_seconds < math.inf:
            raise InputError(f"latency_seconds: {self.latency_seconds}; a finite number from 0 on is needed")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers: {self.workers}; at least 1 is needed")


@dataclass(frozen=True)
class Settings:
    """All settings of one sweep; those that depend on the granularity are filled in where they are not given."""

    sweep: SweepSettings = field(default_factory=SweepSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    schedules: ScheduleSettings = field(default_factory=ScheduleSettings)
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    annealing: Annealing = field(default_factory=Annealing)
    optuna: OptunaSettings = field(default_factory=OptunaSettings)
    supermask: SupermaskSettings = field(default_factory=SupermaskSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        scoring = dataclasses.replace(self.scoring, scope=self.scope, on_empty=self.on_empty)
        object.__setattr__(self, "scoring", scoring)
        known = [source.moment for source in self.search.sources if source.moment]
        for moment in (*self.sweep.moments, *self.schedules.rewind_to, *known):
            duration = parse_rewind(moment)
            if isinstance(duration, str):
                continue
            if duration.unit == "ep" and duration.count > self.train.epochs:
                raise InputError(f"find_at or rewind_to: {moment} is longer than the training of {self.train.epochs}ep")
            if self.sweep.dense != "auto" and (duration.best or str(duration) not in ("0", "end")):
                raise InputError(
                    f"find_at or rewind_to: {moment}; a dense network from a file has only the moments 0 and end"
                )
        if self.scoring.layers != "all" and self.sweep.granularity == "filter":
            raise InputError(
                f"layers: {self.scoring.layers}; it chooses layers of weight masks, and granularity is filter"
            )
        if self.scoring.hold != "units" and self.sweep.granularity == "weight":
            raise InputError(f"hold: {self.scoring.hold}; all weights cost the same, so weight masks hold units")
        for flag, objective in self._objectives.items():
            if self.sweep.granularity == "weight" and OBJECTIVES[objective].of_filters is not None:
                raise InputError(f"{flag}: {objective}; it scores filter masks only, so granularity must be filter")
        if self.sweep.capped is not None:
            self._check_caps(self.sweep.capped)
        if self.scoring.connected:
            self._check_connected()
        training = [name for name in self._objectives.values() if OBJECTIVES[name].of_training is not None]
        if self.scoring.weights != "own" and training:
            raise InputError(f"weights: {self.scoring.weights}; {training[0]} trains the tickets' own weights")
        for name in (source.name for source in self.search.sources):
            allowed = CRITERIA[name].granularities
            if self.sweep.granularity not in allowed:
                raise InputError(
                    f"saliencies, warm_start or finalists: {name} ranks {' and '.join(allowed)} units only, and "
                    f"granularity is {self.sweep.granularity}"
                )
        if self.search.training_lr is not None and not training:
            able = " or ".join(name for name, row in OBJECTIVES.items() if row.of_training is not None)
            raise InputError(f"training_lr: {self.search.training_lr}; neither objective nor rescore_by is {able}")
        if OBJECTIVES[self.sweep.objective].images == 0:
            self._check_imageless(self.sweep.objective)
        if any(source.epochs for source in self.search.sources):
            self._check_gradual()
        if self.optuna.study is not None:
            self._check_study(self.optuna.study)
        mixes = self.optuna.parametrisation == "mixture" and not self.search.saliencies
        if mixes and self._of_group("optuna"):
            raise InputError("optuna.parametrisation: mixture; give the criteria to mix as saliencies")
        for schedule in self.schedules.schedule:
            self._check_schedule(schedule)
        if self.sweep.moments and all(SCHEDULES[name].has_own_moment for name in self.schedules.schedule):
            raise InputError(
                f"find_at: {' '.join(self.sweep.moments)}; {' '.join(self.schedules.schedule)} has a moment of its own"
            )

    @property
    def _objectives(self) -> dict[str, str]:
        """What masks are scored by, by flag."""
        again = self.search.rescore_by
        return {"objective": self.sweep.objective} | ({} if again is None else {"rescore_by": again})

    def _of_group(self, group: str) -> list[str]:
        """The searchers among the methods that have the settings of ``group``."""
        names = [name for name, _ in map(split_method, self.sweep.methods) if name in SEARCHERS]
        return [name for name in names if SEARCHERS[name]().settings_group == group]

    @property
    def scope(self) -> Scope:
        """How criteria rank units: as ``scoring`` says, or as is usual for the granularity."""
        return self.scoring.scope or SCOPES[self.sweep.granularity]

    @property
    def on_empty(self) -> OnEmpty:
        """What happens to masks that empty a layer: as ``scoring`` says, or as is usual for the granularity."""
        return self.scoring.on_empty or ON_EMPTY[self.sweep.granularity]

    @property
    def hold(self) -> Hold:
        """What densities are shares of: as ``scoring`` says, or what has a cap. Those of capped latencies: MACs."""
        capped = self.sweep.capped
        if capped is None:
            return self.scoring.hold
        return "macs" if capped == "latency" else capped

    def _check_caps(self, capped: Capped) -> None:
        flag = f"max_{capped}"
        if self.scoring.hold not in ("units", self.hold):
            raise InputError(f"hold: {self.scoring.hold}; {flag} holds {self.hold}")
        if self.sweep.layer_sparsity:
            raise InputError(f"layer_sparsity: {' '.join(self.sweep.layer_sparsity)}; {flag} leaves layers free")
        for name, _ in map(split_method, self.sweep.methods):
            if not (name in SEARCHERS and SEARCHERS[name]().supports_costs):
                if capped == "latency":
                    able = [other for other, make in SEARCHERS.items() if make().supports_costs]
                    raise InputError(f"{flag}: {name} has no latency bounds; {' '.join(able)} can")
                continue
            if any(SCHEDULES[schedule].rounds > 1 for schedule in self.schedules.schedule):
                raise InputError(f"{flag}: {name} searches a front in one round only")
            if self.search.finalists:
                raise InputError(
                    f"finalists: {' '.join(self.search.finalists)}; with {flag}, masks are chosen from a front"
                )
            if self.search.warm_start:
                raise InputError(
                    f"warm_start: {self.search.warm_start}; with {flag} {name} starts at several costs, with saliencies"
                )

    def _check_connected(self) -> None:
        if self.sweep.granularity == "filter":
            raise InputError("connected: of filters, none is left without a path; granularity must be weight")
        for name, _ in map(split_method, self.sweep.methods):
            if name not in CRITERIA and not (name in SEARCHERS and SEARCHERS[name]().ranks_units):
                able = [other for other, make in SEARCHERS.items() if make().ranks_units]
                raise InputError(f"connected: {name} doesn't rank units; criteria and {', '.join(able)} do")
            if name not in CRITERIA and any(SCHEDULES[schedule].rounds > 1 for schedule in self.schedules.schedule):
                raise InputError(f"connected: {name} searches connected masks in one round only")
        if any(SCHEDULES[name].changes for name in self.schedules.schedule):
            raise InputError(f"connected: not with {' '.join(self.schedules.schedule)}, where masks change in training")

    def _check_gradual(self) -> None:
        names = " ".join(text for text in self.search.criteria if "@gradual" in text)
        if self.sweep.capped is not None:
            raise InputError(
                f"saliencies, warm_start or finalists: {names}; with max_{self.sweep.capped} there is no single density"
            )
        if self.sweep.layer_sparsity:
            raise InputError(
                f"saliencies, warm_start or finalists: {names}; gradual pruning follows one density, and "
                f"layer_sparsity is {' '.join(self.sweep.layer_sparsity)}"
            )

    def _check_imageless(self, objective: str) -> None:
        same = (self.search.rescore_by or objective) == objective
        longer = OBJECTIVES[objective].of_training is not None and self.search.rescore_steps is not None
        if self.search.rescores and same and not longer:
            raise InputError(
                f"rescore: {self.search.rescore}; {objective} uses no validation examples, so other examples give "
                "the same scores; name another objective as rescore_by"
            )

    def _check_study(self, study: str) -> None:
        if self.sweep.capped is not None:
            raise InputError(
                f"optuna.study: {study!r}; the front of max_{self.sweep.capped} is searched once, for all sweeps"
            )
        names = self._of_group("optuna")
        if names and any(SCHEDULES[schedule].rounds > 1 for schedule in self.schedules.schedule):
            raise InputError(
                f"optuna.study: {study!r}; in rounds, {names[0]} searches what earlier rounds left alive, which is not "
                "the same in all sweeps"
            )

    def _check_schedule(self, name: str) -> None:
        row = SCHEDULES[name]
        chosen = [split_method(method)[0] for method in self.sweep.methods]
        if row.changes in ("set", "rigl") and self.sweep.granularity == "filter":
            raise InputError(f"schedule: {name} regrows weights, and granularity is filter")
        if row.changes == "ramp" or row.detects:
            for method in chosen:
                if method not in CRITERIA:
                    raise InputError(f"schedule: {name} ranks units repeatedly, and {method} is no criterion")
        if row.changes == "ramp" and self.sweep.layer_sparsity:
            raise InputError(
                f"layer_sparsity: {' '.join(self.sweep.layer_sparsity)}; {name} follows one density, not one a layer"
            )
        asked = self.schedules.retrain_epochs
        if row.changes == "ramp" and not (self.train.epochs if asked is None else asked):
            raise InputError(f"schedule: {name} prunes while it retrains, and retraining has no epochs")
        if row.detects and not self.train.epochs:
            raise InputError(f"schedule: {name} watches the dense training, and epochs is 0")
        if row.detects and self.sweep.dense != "auto":
            raise InputError(f"schedule: {name} watches the dense training, and dense is {self.sweep.dense}")

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, groups: Mapping[str, Mapping[str, Any]], source: str = "settings") -> "Settings":
        """What :meth:`as_dict` gave, as JSON has it; users' modules that it names are loaded.

        Raises
        ------
        InputError
            If they are of a version that had other settings; ``source`` is named, and why a setting was removed.
        """
        flat: dict[str, Any] = {}
        for name, values in groups.items():
            known = {key: value for key, value in values.items() if value is not None}
            flat |= {name: known} if name in NESTED else known
        return cls().updated(flat, source)

    def updated(self, flat: dict[str, Any], source: str) -> "Settings":
        """These settings with some values replaced, given by field name without its group.

        ``annealing``, ``optuna`` and ``supermask`` are tables of their own fields.

        Raises
        ------
        InputError
            For a name that no group has, or a value that doesn't fit; ``source`` is named, and why a setting was
            removed.
        """
        load_plugins(flat.get("plugin", ()))  # before rows are looked up
        groups = {group.name: getattr(self, group.name) for group in dataclasses.fields(self)}
        owner = {
            item.name: name
            for name, group in groups.items()
            if name not in NESTED
            for item in dataclasses.fields(group)
        }
        changes: dict[str, dict[str, Any]] = {name: {} for name in groups}
        for key, value in flat.items():
            inner = [f"{key}.{name}" for name in value] if key in NESTED and isinstance(value, dict) else []
            for name in (key, *inner):
                if name in REMOVED:
                    raise InputError(f"{name} in {source}: {REMOVED[name]}")
            choose(f"key in {source}", key, [*owner, *NESTED])
            if key in NESTED:
                changes[key] = fitted_table(type(groups[key]), key, value, source)
            else:
                hint = get_type_hints(type(groups[owner[key]]))[key]
                changes[owner[key]][key] = fitted(value, hint, f"{source}: {key}")
        return self.with_changes(changes)

    def with_changes(self, changes: Mapping[str, Mapping[str, Any]]) -> "Settings":
        """These settings with some values replaced: group -> field -> value, as the field has it.

        With another granularity, what was usual for the old one becomes what is usual for the new one.

        Raises
        ------
        InputError
            If the values do not fit together.
        """
        new = {group.name: dict(changes.get(group.name, {})) for group in dataclasses.fields(self)}
        old = self.sweep.granularity
        if new["sweep"].get("granularity", old) != old:
            for group, name, usual, unset in (
                ("sweep", "methods", METHODS[old], ()),
                ("scoring", "scope", SCOPES[old], None),
                ("scoring", "on_empty", ON_EMPTY[old], None),
            ):
                if getattr(getattr(self, group), name) == usual:
                    new[group].setdefault(name, unset)
        return Settings(**{name: dataclasses.replace(getattr(self, name), **values) for name, values in new.items()})
