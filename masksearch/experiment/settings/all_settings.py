"""All settings of a sweep, combined from their groups: dataclasses that check values, and that flags are made from."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masksearch.core.space import Hold, OnEmpty, Scope
from masksearch.experiment.identity import short_hash
from masksearch.experiment.settings.conflicts import check_conflicts
from masksearch.experiment.settings.removed import REMOVED
from masksearch.experiment.settings.schedule_settings import ScheduleSettings
from masksearch.experiment.settings.search_settings import USUAL_START, OptunaSettings, ScoringSettings, SearchSettings
from masksearch.experiment.settings.sweep_settings import METHODS, Granularity, SweepSettings
from masksearch.experiment.settings.text_values import check_least, fitted, value_types
from masksearch.plugin import load_plugins
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import Annealing
from masksearch.supermasks import SupermaskSettings
from masksearch.training import TrainSettings
from masksearch.utils.errors import InputError, check_numbers, require
from masksearch.utils.files import is_folder_name
from masksearch.utils.registry import choose

SCOPES: dict[Granularity, Scope] = {
    "weight": "global",
    "filter": "layerwise",
    "block": "global",
    "union": "layerwise",
    "nm": "global",
}
"""Scope of criteria by granularity: norms of filters differ between layers, so one threshold can empty a layer."""

ON_EMPTY: dict[Granularity, OnEmpty] = {
    "weight": "allow",
    "filter": "keep_one",
    "block": "allow",
    "union": "keep_one",
    "nm": "allow",
}
"""Treatment of emptied layers by granularity: a network without filters in one layer has constant outputs."""

NESTED = ("annealing", "optuna", "supermask")
"""Groups whose settings are written with the group's name, in recipes and messages: ``annealing.chains``."""


_RESERVED = ("dense", "fronts")  # folders in runs that sweeps share
_PATH_BYTES = 1000


@dataclass(frozen=True)
class RunSettings:
    """Settings of how a sweep is executed: its name, folders, device and processes.

    Device and number of threads change the last bits of results; no other setting here changes results.
    """

    name: str = "sweep"
    """Name of the sweep; results are written to runs/NAME."""
    plugin: tuple[str, ...] = ()
    """Python modules with your own methods, networks or data sets: dotted names or .py files.
    Each module defines a dictionary MASKSEARCH that lists them (docs/plugins.md)."""
    runs: str = "runs"
    """Folder in which every sweep has a folder, or a URL of object storage, such as s3://bucket/runs.
    With a URL, a sweep works on a copy in a local folder (cache); S3 needs pip install 'masksearch[storage]'."""
    cache: str = "~/.cache/masksearch"
    """Folder, on each machine, for local copies of sweeps' folders, if runs is a URL; ~ and $VARIABLES are replaced."""
    upload_seconds: float = 60.0
    """Seconds between two uploads of a checkpoint to object storage, if runs is a URL.
    A machine that fails loses at most the work since its last upload."""
    data_root: str = "data"
    """Folder that holds the data sets."""
    download: bool = False
    """Download the data set if it is missing."""
    device: str = "auto"
    """Device to compute on: auto, cpu, cuda, cuda:1 or mps.
    "auto" is "cuda" if available, else "cpu"."""
    threads: int | None = None
    """Number of CPU threads that compute for one method, sparsity and seed.
    Another number may change the last bits of results. If not given: 1 with several processes, with Ray, and for
    networks without convolutions and below 1,000,000 parameters; otherwise PyTorch's number. Give a number
    where a sweep continues on another machine."""
    executor: str = "auto"
    """Where a sweep is executed: auto, inline (this process), processes:N, ray, or ray:ADDRESS of a cluster.
    With "processes" and "ray", several methods, sparsities and seeds run at the same time. "auto" is "inline", or, for
    networks without convolutions and below 1,000,000 parameters, as many processes as PyTorch has threads, unless
    threads is given."""
    gpus_per_cell: float = 0.0
    """GPUs that Ray reserves for each run of the sweep (one method, sparsity and seed), such as 0.25; 0: none."""
    memory_per_cell: float = 0.0
    """GiB of memory that Ray reserves for each run of the sweep (one method, sparsity and seed); 0 reserves none."""
    deterministic: bool = False
    """Use only deterministic PyTorch algorithms; some of them are slower on CUDA."""
    latency_seconds: float = 0.15
    """Seconds that each latency measurement takes, for the masked and the dense network together.
    Each network runs at least 11 times."""

    def __post_init__(self) -> None:
        check_least(self, threads=1)
        check_numbers(self, threads=256, latency_seconds=3600, upload_seconds=86400)
        check_numbers(self, gpus_per_cell=64, memory_per_cell=65536)
        words = "a folder name of printable characters without / and \\ that does not begin with a dot"
        require("name", ascii(self.name)[:80], is_folder_name(self.name), words)
        free = self.name not in _RESERVED
        require("name", repr(self.name), free, f"any other name, since runs has folders {' and '.join(_RESERVED)}")
        for name, path in (("runs", self.runs), ("cache", self.cache), ("data_root", self.data_root)):
            fits = path.isprintable() and 0 < len(os.fsencode(path)) <= _PATH_BYTES
            require(name, ascii(path)[:80], fits, f"a path of printable characters, at most {_PATH_BYTES:,} bytes")
        for name in ("gpus_per_cell", "memory_per_cell"):
            require(name, getattr(self, name), getattr(self, name) >= 0, "a number from 0 on")
        seconds = self.latency_seconds
        if not 0 <= seconds < math.inf:
            raise InputError(f"latency_seconds: {seconds}; a finite number from 0 on is needed")
        if not self.upload_seconds > 0:
            raise InputError(f"upload_seconds: {self.upload_seconds}; a number above 0 is needed")

    @property
    def is_remote(self) -> bool:
        """Whether ``runs``, the place of all sweeps' folders, is a URL of object storage."""
        return "://" in self.runs

    @property
    def folder(self) -> Path:
        """Folder on this machine in which every sweep has a folder: ``runs``, or a local copy if ``runs`` is a URL."""
        if not self.is_remote:
            return Path(self.runs)
        url = self.runs.rstrip("/")
        words = "-".join(re.findall(r"\w+", url))[-60:]
        return Path(os.path.expandvars(self.cache)).expanduser() / f"{words}-{short_hash({'url': url})}"


@dataclass(frozen=True)
class Settings:
    """All settings of one sweep, by group. Some of the defaults depend on the granularity."""

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
        check_conflicts(self)

    @property
    def scope(self) -> Scope:
        """How a density is divided among layers (scope): as set by the user, or else as usual for the granularity."""
        return self.scoring.scope or SCOPES[self.sweep.granularity]

    @property
    def on_empty(self) -> OnEmpty:
        """What happens if a mask empties a layer: as set by the user, or else as usual for the granularity."""
        return self.scoring.on_empty or ON_EMPTY[self.sweep.granularity]

    @property
    def hold(self) -> Hold:
        """Quantity that densities are shares of: the cost with upper bounds (say, MACs), else the setting ``hold``."""
        capped = self.sweep.capped
        if capped is None:
            return self.scoring.hold
        return "macs" if capped == "latency" else capped

    @property
    def repairs(self) -> bool:
        """Whether kept weights are refitted by least squares, either before retraining or before masks are scored."""
        objectives = {self.sweep.objective, self.search.rescore_by or self.sweep.objective}
        return self.schedules.reconstruct != "off" or any(OBJECTIVES[name].reconstructs for name in objectives)

    @classmethod
    def of_command_line(cls) -> "Settings":
        """Return the default settings of ``masksearch run``, in which ``warm_start`` is ``auto``."""
        return cls(search=SearchSettings(warm_start=USUAL_START))

    def as_dict(self) -> dict[str, dict[str, object]]:
        """Return all settings as {group: {name: value}}, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, groups: Mapping[str, Mapping[str, Any]], source: str = "settings") -> "Settings":
        """Return Settings made from the dictionary that :meth:`as_dict` returns; plugins named in it are not loaded.

        Raises
        ------
        InputError
            For a setting that this version does not have, and for a name of a plugin that is not loaded; the message
            names ``source`` and says what to do.
        """
        flat: dict[str, Any] = {}
        wrong = [name for name, values in groups.items() if not isinstance(values, Mapping)]
        if wrong or not all(isinstance(name, str) for name in groups):
            raise InputError(f"{source}: {wrong[0] if wrong else 'a group'} is no table of settings")
        for name, values in groups.items():
            known = {key: value for key, value in values.items() if value is not None}
            flat |= {name: known} if name in NESTED else known
        try:
            return cls()._updated(flat, source)
        except InputError as error:
            plugins = flat.get("plugin")
            if plugins and isinstance(plugins, list | tuple):
                words, text = " ".join(map(str, plugins)), str(error)
                missing = text.split(": ")[0] if text.startswith("unknown ") else text  # without all known names
                raise InputError(
                    f"{source}: {missing}; the sweep used the plugin {words}: add --plugin {words}, which runs its code"
                ) from None
            raise

    def updated(self, flat: dict[str, Any], source: str) -> "Settings":
        """Return a copy of the settings with new values, given as {name: value} without groups, as in recipes.

        ``annealing``, ``optuna`` and ``supermask`` are tables of their own fields.

        Raises
        ------
        InputError
            For an unknown name, a removed setting or a wrong value; the message names ``source``.
        """
        load_plugins(flat.get("plugin", ()))  # before rows are looked up
        return self._updated(flat, source)

    def _updated(self, flat: dict[str, Any], source: str) -> "Settings":
        types = {group.name: value_types(type(getattr(self, group.name))) for group in dataclasses.fields(self)}
        owner = {name: group for group in types if group not in NESTED for name in types[group]}
        changes: dict[str, dict[str, object]] = {}
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
        """Return a copy of the settings with new values, given as {group: {name: value}}.

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
                ("sweep", "sparsity", SweepSettings(granularity=old).sparsity, SweepSettings().sparsity),
                ("scoring", "scope", SCOPES[old], None),
                ("scoring", "on_empty", ON_EMPTY[old], None),
            ):
                if getattr(getattr(self, group), name) == usual:
                    new[group].setdefault(name, unset)
        return Settings(**{name: dataclasses.replace(getattr(self, name), **values) for name, values in new.items()})
