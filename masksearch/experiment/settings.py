"""The settings of a sweep: typed, checked when they are made, and the source of the command line's flags."""

import dataclasses
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.duration import Duration
from masksearch.errors import InputError
from masksearch.models import MODELS
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS, Annealing
from masksearch.space import Hold, OnEmpty, Scope
from masksearch.spaces import LayerKind
from masksearch.table import choose
from masksearch.training import TrainSettings
from masksearch.trial import Budget

__all__ = ["RunSettings", "ScoringSettings", "Settings", "SweepSettings", "methods", "parse_rewind"]

Granularity = Literal["weight", "filter"]
Weights = Literal["own", "signed_constant"]

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def methods() -> list[str]:
    """Names of everything that makes masks: searchers and criteria."""
    return [*SEARCHERS, *CRITERIA]


@dataclass(frozen=True)
class SweepSettings:
    """What is compared: a grid of method x sparsity x find-at x seed."""

    dataset: str = "digits"
    """Data set: a row of --list, or imagefolder:PATH."""
    model: str = "lenet_300_100"
    """Network: a row of --list, name:width, or torchvision:NAME."""
    granularity: Granularity = "weight"
    """What a mask bit switches: a weight, or a filter with everything that is removed together with it."""
    methods: tuple[str, ...] = ("annealing", "random_search", "magnitude", "mag_sign", "snip", "random")
    """Searchers and criteria to compare: rows of --list."""
    sparsity: tuple[float, ...] = (0.7, 0.8, 0.9)
    """Shares of the units that are pruned, each in (0, 1)."""
    seeds: int = 3
    """Seeds 0, 1, ... of initial weights, training and search; results are means over them."""
    budget: int = 1000
    """Scorings per search."""
    objective: str = "calibrated_loss"
    """What a search maximises: a row of --list."""
    find_at: tuple[str, ...] = ("0",)
    """When in the dense training masks are found: 0, 3ep, 500it, end. Criteria made for trained weights: always end."""
    rewind_to: str = "0"
    """Which weights retraining starts from: 0, 3ep, 500it, none (the trained ones), random (fresh ones)."""
    retrain_epochs: int | None = None
    """Epochs of retraining; as many as the dense training if not given."""

    def __post_init__(self) -> None:
        choose("granularity", self.granularity, list(get_args(Granularity)))
        choose("data set", self.dataset.partition(":")[0], list(DATASETS))
        _check_model(self.model)
        _check_some("methods", self.methods)
        for method in self.methods:
            choose("method", method, methods())
            if method in CRITERIA and self.granularity not in CRITERIA[method].granularities:
                allowed = " and ".join(CRITERIA[method].granularities)
                raise InputError(f"methods: {method} ranks {allowed} units only, and granularity is {self.granularity}")
        _check_some("sparsity", self.sparsity)
        for sparsity in self.sparsity:
            if not 0 < sparsity < 1:
                raise InputError(f"sparsity: {sparsity}; it must lie between 0 and 1, both excluded")
        if self.seeds < 1:
            raise InputError(f"seeds: {self.seeds}; at least 1 is needed")
        Budget(scorings=self.budget)
        choose("objective", self.objective, list(OBJECTIVES))
        _check_some("find_at", self.find_at)
        for moment in self.find_at:
            Duration.parse(moment, "find_at")
        parse_rewind(self.rewind_to)
        if self.retrain_epochs is not None and self.retrain_epochs < 0:
            raise InputError(f"retrain_epochs: {self.retrain_epochs}; at least 0 is needed")


@dataclass(frozen=True)
class ScoringSettings:
    """How masks are made and scored."""

    seconds: float | None = None
    """Seconds of scoring per search, beside the budget; whichever ends first. Results then depend on the machine."""
    search_images: int | None = None
    """Validation images that scorers see; 2,000 or half of them if not given."""
    train_images: int | None = None
    """Training images; all if not given."""
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
    scoring: ScoringSettings = field(default_factory=ScoringSettings)
    annealing: Annealing = field(default_factory=Annealing)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        for moment in (*self.sweep.find_at, self.sweep.rewind_to):
            if moment in ("none", "random"):
                continue
            duration = Duration.parse(moment)
            if duration.unit == "ep" and duration.count > self.train.epochs:
                raise InputError(f"find_at or rewind_to: {moment} is longer than the training of {self.train.epochs}ep")

        if self.scoring.layers != "all" and self.sweep.granularity == "filter":
            raise InputError(
                f"layers: {self.scoring.layers}; it chooses layers of weight masks, and granularity is filter"
            )
        if self.scoring.hold != "units" and self.sweep.granularity == "weight":
            raise InputError(f"hold: {self.scoring.hold}; all weights cost the same, so weight masks hold units")

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        return dataclasses.asdict(self)

    def updated(self, flat: dict[str, Any], source: str) -> "Settings":
        """These settings with some values replaced, given by field name without its group (``annealing`` keeps it).

        Raises
        ------
        InputError
            For a name that no group has, or a value that doesn't fit; ``source`` is named.
        """
        groups = {group.name: getattr(self, group.name) for group in dataclasses.fields(self)}
        owner = {
            item.name: name
            for name, group in groups.items()
            if name != "annealing"
            for item in dataclasses.fields(group)
        }
        changes: dict[str, dict[str, Any]] = {name: {} for name in groups}
        for key, value in flat.items():
            choose(f"key in {source}", key, [*owner, "annealing"])
            if key == "annealing":
                if not isinstance(value, dict):
                    raise InputError(f"{source}: annealing is {value!r}; a table of its settings is needed")
                for name in value:
                    choose(f"key in {source} [annealing]", name, [item.name for item in dataclasses.fields(Annealing)])
                changes["annealing"] = {
                    name: _fitted(inner, get_type_hints(Annealing)[name], f"{source}: annealing.{name}")
                    for name, inner in value.items()
                }
            else:
                hint = get_type_hints(type(groups[owner[key]]))[key]
                changes[owner[key]][key] = _fitted(value, hint, f"{source}: {key}")
        return Settings(**{name: dataclasses.replace(group, **changes[name]) for name, group in groups.items()})


def parse_rewind(text: str) -> Duration | Literal["none", "random"]:
    """Read a ``rewind_to``: a duration, ``none`` or ``random``."""
    if text == "none":
        return "none"
    if text == "random":
        return "random"
    return Duration.parse(text, "rewind_to (besides none and random)")


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


def _check_some(name: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise InputError(f"{name}: nothing given; at least one is needed")
    if len(set(values)) < len(values):
        raise InputError(f"{name}: {' '.join(map(str, values))}; each may stand there once")


def _check_model(model: str) -> None:
    name = model.partition(":")[0]
    if name != "torchvision":
        choose("model", name, [*MODELS, "torchvision:NAME"])
