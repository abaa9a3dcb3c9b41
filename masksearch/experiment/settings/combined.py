"""Settings of a sweep: typed dataclasses that check their values and that the command line makes its flags of."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from masksearch.core.space import Hold, OnEmpty, Scope
from masksearch.criteria import CRITERIA
from masksearch.experiment.settings.removed import REMOVED
from masksearch.experiment.settings.schedule_settings import ScheduleSettings, parse_rewind
from masksearch.experiment.settings.search_settings import OptunaSettings, ScoringSettings, SearchSettings, split_method
from masksearch.experiment.settings.sweep_axes import METHODS, Capped, Granularity, SweepSettings
from masksearch.experiment.settings.text_values import check_least, fitted, value_types
from masksearch.plugin import load_plugins
from masksearch.schedules import SCHEDULES
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS, Annealing
from masksearch.supermasks import SupermaskSettings
from masksearch.training import TrainSettings
from masksearch.utils.errors import InputError, require
from masksearch.utils.registry import choose

__all__ = ["NESTED", "ON_EMPTY", "SCOPES", "RunSettings", "ScoringSettings", "Settings", "SweepSettings"]

SCOPES: dict[Granularity, Scope] = {"weight": "global", "filter": "layerwise"}
"""Scope of criteria by granularity: norms of filters differ between layers, so one threshold can empty a layer."""

ON_EMPTY: dict[Granularity, OnEmpty] = {"weight": "allow", "filter": "keep_one"}
"""Treatment of emptied layers by granularity: a network without filters in one layer has constant outputs."""

NESTED = ("annealing", "optuna", "supermask")
"""Groups whose settings are written with the group's name, in recipes and messages: ``annealing.chains``."""

_SOURCES = "saliencies, warm_start or finalists"


@dataclass(frozen=True)
class RunSettings:
    """Name, folders, device and processes of a sweep; no setting here changes results."""

    name: str = "sweep"
    """Name of the sweep, and of its folder in runs."""
    plugin: tuple[str, ...] = ()
    """Python modules with your own methods, networks or data sets: dotted names or .py files.
    Each module defines a dictionary MASKSEARCH of rows (docs/plugins.md)."""
    runs: str = "runs"
    """Folder of all sweeps."""
    data_root: str = "data"
    """Folder of the data sets."""
    download: bool = False
    """Download the data set if it is missing."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1 or mps.
    auto is cuda if available, else cpu."""
    threads: int | None = None
    """Number of CPU threads of all workers together; if not given, PyTorch's choice."""
    workers: int | None = None
    """Number of processes that run parts of the sweep at the same time.
    If not given: one, but as many as threads for networks without convolutions below 1,000,000 parameters, which
    calculate on one thread each."""
    deterministic: bool = False
    """Use deterministic algorithms only; on CUDA some are slower."""
    latency_seconds: float = 0.15
    """Seconds of each latency measurement of a masked and the dense network together; at least 11 runs of each."""

    def __post_init__(self) -> None:
        check_least(self, threads=1, workers=1)
        named = bool(self.name) and "/" not in self.name and not self.name.startswith(".")
        require("name", repr(self.name), named, "a folder name without / that does not begin with a dot")
        seconds = self.latency_seconds
        if not 0 <= seconds < math.inf:
            raise InputError(f"latency_seconds: {seconds}; a finite number from 0 on is needed")


@dataclass(frozen=True)
class Settings:
    """All settings of one sweep, by group. Settings that are not given get the usual value of the granularity."""

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
        self._check_moments()
        self._check_granularity()
        if self.sweep.capped is not None:
            self._check_caps(self.sweep.capped)
        if self.scoring.connected:
            self._check_connected()
        self._check_objectives()
        if any(source.epochs for source in self.search.sources):
            self._check_gradual()
        self._check_optuna()
        for schedule in self.schedules.schedule:
            self._check_schedule(schedule)

    @property
    def scope(self) -> Scope:
        """Comparison of units by a criterion: the setting, or the usual one of the granularity."""
        return self.scoring.scope or SCOPES[self.sweep.granularity]

    @property
    def on_empty(self) -> OnEmpty:
        """Treatment of masks that empty a layer: the setting, or the usual one of the granularity."""
        return self.scoring.on_empty or ON_EMPTY[self.sweep.granularity]

    @property
    def hold(self) -> Hold:
        """Quantity in which densities are measured: the setting, or the cost with upper bounds (latency: MACs)."""
        capped = self.sweep.capped
        if capped is None:
            return self.scoring.hold
        return "macs" if capped == "latency" else capped

    @property
    def _objectives(self) -> dict[str, str]:
        """{name of the setting: objective} of the first and the second scoring."""
        again = self.search.rescore_by
        return {"objective": self.sweep.objective} | ({} if again is None else {"rescore_by": again})

    @property
    def _methods(self) -> list[str]:
        """Names of the methods, without their moments."""
        return [split_method(method)[0] for method in self.sweep.methods]

    @property
    def _has_rounds(self) -> bool:
        """Whether a schedule prunes in several rounds."""
        return any(SCHEDULES[name].rounds > 1 for name in self.schedules.schedule)

    def _check_moments(self) -> None:
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
        if self.sweep.moments and all(SCHEDULES[name].has_own_moment for name in self.schedules.schedule):
            moments, names = " ".join(self.sweep.moments), " ".join(self.schedules.schedule)
            raise InputError(f"find_at: {moments}; {names} finds masks at its own moment, so leave find_at out")

    def _check_granularity(self) -> None:
        granularity, scoring = self.sweep.granularity, self.scoring
        if scoring.layers != "all" and granularity == "filter":
            raise InputError(f"layers: {scoring.layers}; it chooses layers of weight masks, and granularity is filter")
        if scoring.hold != "units" and granularity == "weight":
            raise InputError(f"hold: {scoring.hold}; all weights cost the same, so weight masks hold units")
        for name, objective in self._objectives.items():
            if granularity == "weight" and OBJECTIVES[objective].of_filters is not None:
                raise InputError(f"{name}: {objective}; it scores filter masks only, so granularity must be filter")
        for source in self.search.sources:
            allowed = CRITERIA[source.name].granularities
            if granularity not in allowed:
                raise InputError(
                    f"{_SOURCES}: {source.name} ranks {' and '.join(allowed)} units only, and granularity is "
                    f"{granularity}"
                )

    def _check_caps(self, capped: Capped) -> None:
        flag, search = f"max_{capped}", self.search
        if self.scoring.hold not in ("units", self.hold):
            raise InputError(f"hold: {self.scoring.hold}; {flag} holds {self.hold}")
        if self.sweep.layer_sparsity:
            raise InputError(f"layer_sparsity: {' '.join(self.sweep.layer_sparsity)}; {flag} leaves layers free")
        fronts = [name for name, make in SEARCHERS.items() if make().supports_costs]
        for name in self._methods:
            if name not in fronts:
                if capped == "latency":
                    raise InputError(f"{flag}: {name} has no latency bounds; {' '.join(fronts)} can")
                continue
            if self._has_rounds:
                raise InputError(f"{flag}: {name} searches a front in one round only")
            if search.finalists:
                raise InputError(f"finalists: {' '.join(search.finalists)}; with {flag}, masks are chosen from a front")
            if search.warm_start:
                raise InputError(
                    f"warm_start: {search.warm_start}; with {flag} {name} starts at several costs: give saliencies"
                )

    def _check_connected(self) -> None:
        if self.sweep.granularity == "filter":
            raise InputError("connected: every filter has a path already; granularity must be weight")
        ranking = [name for name, make in SEARCHERS.items() if make().ranks_units]
        for name in self._methods:
            if name not in CRITERIA and name not in ranking:
                raise InputError(f"connected: {name} doesn't rank units; criteria and {', '.join(ranking)} do")
            if name not in CRITERIA and self._has_rounds:
                raise InputError(f"connected: {name} searches connected masks in one round only")
        if any(SCHEDULES[name].changes for name in self.schedules.schedule):
            raise InputError(f"connected: not with {' '.join(self.schedules.schedule)}, where masks change in training")

    def _check_objectives(self) -> None:
        objective, search = self.sweep.objective, self.search
        training = [name for name in self._objectives.values() if OBJECTIVES[name].of_training is not None]
        if self.scoring.weights != "own" and training:
            raise InputError(f"weights: {self.scoring.weights}; {training[0]} trains the masked networks' own weights")
        if search.training_lr is not None and not training:
            able = " or ".join(name for name, row in OBJECTIVES.items() if row.of_training is not None)
            raise InputError(f"training_lr: {search.training_lr}; neither objective nor rescore_by is {able}")
        same = (search.rescore_by or objective) == objective
        longer = OBJECTIVES[objective].of_training is not None and search.rescore_steps is not None
        if OBJECTIVES[objective].images == 0 and search.rescores and same and not longer:
            raise InputError(
                f"rescore: {search.rescore}; {objective} uses no validation examples, so other examples give "
                "the same scores; name another objective as rescore_by"
            )

    def _check_gradual(self) -> None:
        names = " ".join(text for text in self.search.criteria if "@gradual" in text)
        if self.sweep.capped is not None:
            raise InputError(f"{_SOURCES}: {names}; with max_{self.sweep.capped} there is no single density")
        if self.sweep.layer_sparsity:
            layers = " ".join(self.sweep.layer_sparsity)
            raise InputError(
                f"{_SOURCES}: {names}; gradual pruning follows one density, and layer_sparsity is {layers}"
            )

    def _check_optuna(self) -> None:
        own, capped = self.optuna, self.sweep.capped
        named = [name for name in self._methods if name in SEARCHERS and SEARCHERS[name]().settings_group == "optuna"]
        if own.study is not None and capped is not None:
            raise InputError(f"optuna.study: {own.study!r}; the front of max_{capped} is searched once, for all sweeps")
        if own.study is not None and named and self._has_rounds:
            raise InputError(
                f"optuna.study: {own.study!r}; in rounds, {named[0]} searches the units that earlier rounds kept, "
                "and these differ between sweeps"
            )
        if own.parametrisation == "mixture" and not self.search.saliencies and named:
            raise InputError("optuna.parametrisation: mixture; give the criteria to mix as saliencies")

    def _check_schedule(self, name: str) -> None:
        row, sweep, layers = SCHEDULES[name], self.sweep, " ".join(self.sweep.layer_sparsity)
        ramps = row.changes == "ramp"
        if ramps and layers:
            raise InputError(f"layer_sparsity: {layers}; {name} follows one density for all layers")
        others = [method for method in self._methods if method not in CRITERIA]
        asked = self.schedules.retrain_epochs
        epochs = self.train.epochs if asked is None else asked
        regrows = row.changes in ("set", "rigl")
        for wrong, why in (
            (regrows and sweep.granularity == "filter", "regrows weights, and granularity is filter"),
            ((ramps or row.detects) and others, f"ranks units repeatedly, and {' '.join(others[:1])} is no criterion"),
            (ramps and not epochs, "prunes while it retrains, and retraining has no epochs"),
            (row.detects and not self.train.epochs, "watches the dense training, and epochs is 0"),
            (row.detects and sweep.dense != "auto", f"watches the dense training, and dense is {sweep.dense}"),
        ):
            if wrong:
                raise InputError(f"schedule: {name} {why}")

    def as_dict(self) -> dict[str, Any]:
        """Return {group: {name: value}} of all settings, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, groups: Mapping[str, Mapping[str, Any]], source: str = "settings") -> "Settings":
        """Return the settings that :meth:`as_dict` made, from JSON; plugins that the settings name are loaded.

        Raises
        ------
        InputError
            For a setting that this version does not have; the message names ``source`` and says what replaced it.
        """
        flat: dict[str, Any] = {}
        for name, values in groups.items():
            known = {key: value for key, value in values.items() if value is not None}
            flat |= {name: known} if name in NESTED else known
        return cls().updated(flat, source)

    def updated(self, flat: dict[str, Any], source: str) -> "Settings":
        """Return these settings with new values, given by name without the group, as in a recipe's TOML file.

        ``annealing``, ``optuna`` and ``supermask`` are tables of their own fields.

        Raises
        ------
        InputError
            For an unknown name, a removed setting or a wrong value; the message names ``source``.
        """
        load_plugins(flat.get("plugin", ()))  # before rows are looked up
        types = {group.name: value_types(type(getattr(self, group.name))) for group in dataclasses.fields(self)}
        owner = {name: group for group in types if group not in NESTED for name in types[group]}
        changes: dict[str, dict[str, Any]] = {}
        for key, value in flat.items():
            inner = [f"{key}.{name}" for name in value] if key in NESTED and isinstance(value, dict) else []
            for name in filter(REMOVED.__contains__, (key, *inner)):
                raise InputError(f"{name} in {source}: {REMOVED[name]}")
            choose(f"key in {source}", key, [*owner, *NESTED])
            if key not in NESTED:
                group = owner[key]
                changes.setdefault(group, {})[key] = fitted(value, types[group][key], f"{source}: {key}")
                continue
            if not isinstance(value, dict):
                raise InputError(f"{source}: {key} is {value!r}; a table of its settings is needed")
            for name, own in value.items():
                of = types[key][choose(f"key in {source} [{key}]", name, list(types[key]))]
                changes.setdefault(key, {})[name] = fitted(own, of, f"{source}: {key}.{name}")
        return self.with_changes(changes)

    def with_changes(self, changes: Mapping[str, Mapping[str, Any]]) -> "Settings":
        """Return these settings with new values, given as {group: {name: value}}.

        With another granularity, settings at the usual value of the old one get the usual value of the new one.

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
