"""The settings of a sweep: typed, checked when they are made, and the source of the command line's flags."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.duration import Duration
from masksearch.errors import InputError
from masksearch.experiment.schedule_settings import ScheduleSettings, check_some, parse_rewind
from masksearch.models import MODELS
from masksearch.schedules import SCHEDULES
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS, Annealing
from masksearch.space import Hold, OnEmpty, Scope
from masksearch.spaces import LayerKind
from masksearch.supermasks import SUPERMASKS, SupermaskSettings
from masksearch.table import choose
from masksearch.training import TrainSettings
from masksearch.trial import Budget

__all__ = ["RunSettings", "ScoringSettings", "Settings", "SweepSettings", "methods"]

Granularity = Literal["weight", "filter"]
Weights = Literal["own", "signed_constant"]

_NESTED = ("annealing", "supermask")  # groups whose fields keep the group's name, also as flags
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def methods() -> list[str]:
    """Names of everything that makes masks: searchers, criteria, and supermasks, which learn them by gradient."""
    return [*SEARCHERS, *CRITERIA, *SUPERMASKS]


@dataclass(frozen=True)
class SweepSettings:
    """What is compared: a grid of method x sparsity x find-at x seed, times the schedules and what belongs to them."""

    dataset: str = "digits"
    """Data set: a row of --list, or imagefolder:PATH."""
    model: str = "lenet_300_100"
    """Network: a row of --list, name:width, or torchvision:NAME."""
    granularity: Granularity = "weight"
    """What a mask bit switches: a weight, or a filter with everything that is removed together with it."""
    methods: tuple[str, ...] = ("annealing", "random_search", "magnitude", "mag_sign", "snip", "random")
    """Searchers, criteria and supermasks to compare: rows of --list; NAME@MOMENT finds its masks at that moment."""
    sparsity: tuple[float, ...] = (0.7, 0.8, 0.9)
    """Shares of the units that are pruned, each in (0, 1)."""
    compression: tuple[float, ...] = ()
    """Sparsities as powers of ten: A keeps one unit of 10^A. In the place of sparsity."""
    layer_sparsity: tuple[str, ...] = ()
    """Layers with a sparsity of their own, as fc1=0.9; all others have the sweep's."""
    seeds: int = 3
    """Seeds 0, 1, ... of initial weights, training and search; results are means over them."""
    budget: int = 1000
    """Scorings per search."""
    objective: str = "calibrated_loss"
    """What a search maximises: a row of --list."""
    find_at: tuple[str, ...] = ()
    """When in the dense training masks are found: 0, 3ep, 500it, end, best, best:3ep (the best weights by validation up
    to there). If not given: at the end for criteria made for trained weights, else at the start."""
    dense: str = "auto"
    """The trained dense network: auto trains it, or takes the one that the same settings have trained before; or a file
    with its state dict (.safetensors, .pt), where {seed} stands for the seed."""

    def __post_init__(self) -> None:
        choose("granularity", self.granularity, list(get_args(Granularity)))
        choose("data set", self.dataset.partition(":")[0], list(DATASETS))
        _check_model(self.model)
        check_some("methods", self.methods)
        for method in self.methods:
            self._check_method(*split_method(method))
        check_some("sparsity", self.sparsity)
        for sparsity in self.sparsity:
            if not 0 < sparsity < 1:
                raise InputError(f"sparsity: {sparsity}; it must lie between 0 and 1, both excluded")
        if self.compression:
            check_some("compression", self.compression)
        for power in self.compression:
            if not 0 < power < 12 or not round(1 - 10**-power, 12):
                raise InputError(f"compression: {power}; a power of ten above 0 and below 12 is needed")
        if self.layer_sparsity:
            check_some("layer_sparsity", tuple(parse_layer_sparsity(text)[0] for text in self.layer_sparsity))
        if self.seeds < 1:
            raise InputError(f"seeds: {self.seeds}; at least 1 is needed")
        Budget(scorings=self.budget)
        choose("objective", self.objective, list(OBJECTIVES))
        if self.find_at:
            check_some("find_at", self.find_at)
        for moment in self.find_at:
            Duration.parse(moment, "find_at")

    def _check_method(self, name: str, moment: str) -> None:
        choose("method", name, methods())
        if moment:
            Duration.parse(moment, f"methods: {name}@{moment}")
        allowed = CRITERIA[name].granularities if name in CRITERIA else ("weight",) if name in SUPERMASKS else None
        if allowed and self.granularity not in allowed:
            raise InputError(
                f"methods: {name} ranks {' and '.join(allowed)} units only, and granularity is {self.granularity}"
            )

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The sparsities that are asked for, whichever way."""
        return tuple(round(1 - 10**-power, 12) for power in self.compression) or self.sparsity

    @property
    def moments(self) -> tuple[str, ...]:
        """The moments of the dense training that masks are asked to be found at, by ``find_at`` or by a method."""
        return (*self.find_at, *filter(None, (split_method(method)[1] for method in self.methods)))

    def dense_file(self, seed: int) -> Path:
        """The file with the dense network of a seed, where ``dense`` is one."""
        return Path(self.dense.replace("{seed}", str(seed)))


@dataclass(frozen=True)
class ScoringSettings:
    """How masks are made and scored."""

    seconds: float | None = None
    """Seconds of scoring per search, beside the budget; whichever ends first. Results then depend on the machine."""
    search_images: int | None = None
    """Validation images that scorers see; 2,000 or half of them if not given."""
    train_images: int | None = None
    """Training images; all if not given."""
    val_images: int | None = None
    """Validation images, those that scorers see included; all if not given."""
    weights: Weights = "own"
    """Weights that masks are searched on: own, or signed_constant (sign times the layer's standard deviation)."""
    scope: Scope = "global"
    """How a criterion's saliency becomes a mask: ranked globally, within layers, or with ERK's layer densities."""
    hold: Hold = "units"
    """What a density of filters is a share of: units, params or macs of the dense network."""
    on_empty: OnEmpty = "allow"
    """What happens to masks that empty a layer: allow and report, keep_one unit there, or raise an error."""
    layers: LayerKind = "all"
    """Which layers have units, for weight masks."""
    images_per_class: int = 10
    """Training images of every class that gradient criteria see."""

    def __post_init__(self) -> None:
        choices = {"weights": Weights, "scope": Scope, "hold": Hold, "on_empty": OnEmpty, "layers": LayerKind}
        for name, kind in choices.items():
            choose(name, getattr(self, name), list(get_args(kind)))
        if self.seconds is not None:
            Budget(seconds=self.seconds)
        if self.images_per_class < 1:
            raise InputError(f"images_per_class: {self.images_per_class}; at least 1 is needed")


@dataclass(frozen=True)
class RunSettings:
    """Where and how it runs; nothing here changes what is compared."""

    name: str = "sweep"
    """Name of the experiment: its folder under runs."""
    runs: str = "runs"
    """Folder of all experiments."""
    data_root: str = "data"
    """Folder of the data sets."""
    download: bool = False
    """Download the data set if it is not there."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps: auto is cuda where there is one, else cpu."""
    threads: int | None = None
    """CPU threads; torch's own choice if not given."""
    deterministic: bool = False
    """Deterministic algorithms only, also where they are slower (CUDA)."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise InputError(f"name: {self.name!r}; a folder name is needed, without / and not beginning with a dot")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads: {self.threads}; at least 1 is needed")


@dataclass(frozen=True)
class Settings:
    """All settings of one sweep."""

    sweep: SweepSettings = field(default_factory=SweepSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    schedules: ScheduleSettings = field(default_factory=ScheduleSettings)
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    annealing: Annealing = field(default_factory=Annealing)
    supermask: SupermaskSettings = field(default_factory=SupermaskSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        for moment in (*self.sweep.moments, *self.schedules.rewind_to):
            duration = parse_rewind(moment)
            if isinstance(duration, str):
                continue
            if duration.unit == "ep" and duration.count > self.train.epochs:
                raise InputError(f"find_at or rewind_to: {moment} is longer than the training of {self.train.epochs}ep")
            if self.sweep.dense != "auto" and (duration.best or str(duration) not in ("0", "end")):
                raise InputError(
                    f"find_at or rewind_to: {moment}; of a dense network from a file only 0 and end are known"
                )
        if self.scoring.layers != "all" and self.sweep.granularity == "filter":
            raise InputError(
                f"layers: {self.scoring.layers}; it chooses layers of weight masks, and granularity is filter"
            )
        if self.scoring.hold != "units" and self.sweep.granularity == "weight":
            raise InputError(f"hold: {self.scoring.hold}; all weights cost the same, so weight masks hold units")
        for schedule in self.schedules.schedule:
            self._check_schedule(schedule)
        if self.sweep.moments and all(SCHEDULES[name].has_own_moment for name in self.schedules.schedule):
            raise InputError(
                f"find_at: {' '.join(self.sweep.moments)}; {' '.join(self.schedules.schedule)} has a moment of its own"
            )

    def _check_schedule(self, name: str) -> None:
        row = SCHEDULES[name]
        chosen = [split_method(method)[0] for method in self.sweep.methods]
        if row.changes in ("set", "rigl") and self.sweep.granularity == "filter":
            raise InputError(f"schedule: {name} regrows weights, and granularity is filter")
        if row.changes == "ramp" or row.detects:
            for method in chosen:
                if method not in CRITERIA:
                    raise InputError(f"schedule: {name} ranks units again and again, and {method} is no criterion")
        if row.changes == "ramp" and self.sweep.layer_sparsity:
            raise InputError(
                f"layer_sparsity: {' '.join(self.sweep.layer_sparsity)}; {name} follows one density, not one a layer"
            )
        asked = self.schedules.retrain_epochs
        if row.changes == "ramp" and not (self.train.epochs if asked is None else asked):
            raise InputError(f"schedule: {name} prunes while it retrains, and there are no epochs of that")
        if row.detects and not self.train.epochs:
            raise InputError(f"schedule: {name} watches the dense training, and epochs is 0")
        if row.detects and self.sweep.dense != "auto":
            raise InputError(f"schedule: {name} watches the dense training, and dense is {self.sweep.dense}")

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def updated(self, flat: dict[str, Any], source: str) -> "Settings":
        """These settings with some values replaced, given by field name without its group.

        ``annealing`` and ``supermask`` are tables of their own fields.

        Raises
        ------
        InputError
            For a name that no group has, or a value that doesn't fit; ``source`` is named.
        """
        groups = {group.name: getattr(self, group.name) for group in dataclasses.fields(self)}
        owner = {
            item.name: name
            for name, group in groups.items()
            if name not in _NESTED
            for item in dataclasses.fields(group)
        }
        changes: dict[str, dict[str, Any]] = {name: {} for name in groups}
        for key, value in flat.items():
            choose(f"key in {source}", key, [*owner, *_NESTED])
            if key in _NESTED:
                changes[key] = _nested(type(groups[key]), key, value, source)
            else:
                hint = get_type_hints(type(groups[owner[key]]))[key]
                changes[owner[key]][key] = _fitted(value, hint, f"{source}: {key}")
        return Settings(**{name: dataclasses.replace(group, **changes[name]) for name, group in groups.items()})


def split_method(text: str) -> tuple[str, str]:
    """``snip@3ep`` as (``snip``, ``3ep``); without a moment the second is empty."""
    name, _, moment = text.partition("@")
    return name, moment


def parse_layer_sparsity(text: str) -> tuple[str, float]:
    """``fc1=0.9`` as (``fc1``, 0.9)."""
    name, _, number = text.rpartition("=")
    try:
        sparsity = float(number)
    except ValueError:
        sparsity = -1.0
    if not name or not 0 <= sparsity < 1:
        raise InputError(f"layer_sparsity: {text!r}; a layer and its sparsity in [0, 1) are needed, as fc1=0.9")
    return name, sparsity


def _nested(group: type, key: str, values: Any, source: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise InputError(f"{source}: {key} is {values!r}; a table of its settings is needed")
    hints = get_type_hints(group)
    for name in values:
        choose(f"key in {source} [{key}]", name, [item.name for item in dataclasses.fields(group)])
    return {name: _fitted(value, hints[name], f"{source}: {key}.{name}") for name, value in values.items()}


def _fitted(value: Any, hint: Any, name: str) -> Any:
    """``value`` as TOML has it, as what a field's type ``hint`` asks for: lists become tuples, and 1 is a float, too.

    Raises
    ------
    InputError
        If it is of another type. Which texts a field takes is its group's to say.
    """
    if get_origin(hint) is UnionType:  # X | None; TOML has no null
        [hint] = [kind for kind in get_args(hint) if kind is not NoneType]
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} is {value!r}; a list is needed")
        return tuple(_fitted(item, get_args(hint)[0], name) for item in value)
    kind = str if get_origin(hint) is Literal else hint
    if type(value) is int and kind is float:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{name} is {value!r}; {_WORDS[kind]} is needed")
    return value


def _check_model(model: str) -> None:
    name = model.partition(":")[0]
    if name != "torchvision":
        choose("model", name, [*MODELS, "torchvision:NAME"])
