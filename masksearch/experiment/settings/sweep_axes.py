"""What a sweep compares: the axes of its grid."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from masksearch.core.protocol import Budget
from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.experiment.settings.schedule_settings import check_some
from masksearch.experiment.settings.search_settings import split_method
from masksearch.models import MODELS
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS
from masksearch.searchers.optuna.parametrisations import RANGE
from masksearch.supermasks import SUPERMASKS
from masksearch.training.duration import Duration
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["CAPPED", "METHODS", "Capped", "Granularity", "SweepSettings", "methods", "parse_layer_sparsity"]

Granularity = Literal["weight", "filter"]
Capped = Literal["macs", "params", "latency"]
CAPPED: tuple[Capped, ...] = get_args(Capped)

METHODS: dict[Granularity, tuple[str, ...]] = {
    "weight": ("annealing", "random_search", "magnitude", "mag_sign", "snip", "random"),
    "filter": ("annealing", "random_search", "filter_l1", "fpgm", "taylor", "random"),
}
"""The usual methods of each granularity."""


def methods() -> list[str]:
    """Names of everything that makes masks: searchers, criteria, and supermasks, which learn them by gradient."""
    return [*SEARCHERS, *CRITERIA, *SUPERMASKS]


@dataclass(frozen=True)
class SweepSettings:
    """What is compared: a grid of method x sparsity x find-at x seed, times the schedules and what belongs to them."""

    dataset: str = "digits"
    """Data set: a row of --list, or imagefolder:PATH."""
    model: str = "lenet_300_100"
    """Network: a row of --list, NAME:WIDTH for a multiple of its width, or torchvision:NAME."""
    granularity: Granularity = "weight"
    """Unit that one mask bit switches: a weight, or a filter with everything that is removed with it."""
    methods: tuple[str, ...] = ()
    """Searchers, criteria and supermasks to compare: rows of --list. NAME@MOMENT finds the masks of NAME at that
    moment of the dense training. If not given, the usual methods of the granularity."""
    sparsity: tuple[float, ...] = (0.7, 0.8, 0.9)
    """Pruned shares of the units, each between 0 and 1."""
    max_macs: tuple[float, ...] = ()
    """Upper bounds of the masks' MACs, as shares of the dense network's, instead of sparsity. Filters only; each
    optuna_* sampler searches one front for all bounds."""
    max_params: tuple[float, ...] = ()
    """Upper bounds of the masks' parameters, as shares of the dense network's, instead of sparsity. Filters only."""
    max_latency: tuple[float, ...] = ()
    """Upper bounds of the masks' measured latency (batches of 64 examples), as shares of the dense network's,
    instead of sparsity. Filters and optuna_* samplers only; measured times differ from run to run."""
    layer_sparsity: tuple[str, ...] = ()
    """Layers with their own sparsity, as fc1=0.9; all other layers have the sweep's sparsity."""
    seeds: int = 3
    """Number of seeds of initial weights, training and search; results are means over the seeds."""
    first_seed: int = 0
    """First seed; the others follow it. Use different seeds for choosing settings and for reporting results."""
    budget: int = 1000
    """Scorings per search."""
    objective: str = "calibrated_loss"
    """Objective that a search maximises: a row of --list."""
    find_at: tuple[str, ...] = ()
    """Moments of the dense training at which masks are found: 0, 3ep, 500it, end, best, or best:3ep (by validation).
    If not given, the usual moment of each method."""
    dense: str = "auto"
    """Dense network: auto (trained, or trained earlier), or the file of a state dict; {seed} in its name is the
    seed."""

    def __post_init__(self) -> None:
        choose("granularity", self.granularity, list(get_args(Granularity)))
        choose("data set", self.dataset.partition(":")[0], list(DATASETS))
        _check_model(self.model)
        object.__setattr__(self, "methods", tuple(self.methods) or METHODS[self.granularity])
        check_some("methods", self.methods)
        for method in self.methods:
            self._check_method(*split_method(method))
        check_some("sparsity", self.sparsity)
        for sparsity in self.sparsity:
            if not 0 < sparsity < 1:
                raise InputError(f"sparsity: {sparsity}; it must lie between 0 and 1, both excluded")
        self._check_caps()
        if self.layer_sparsity:
            check_some("layer_sparsity", tuple(parse_layer_sparsity(text)[0] for text in self.layer_sparsity))
        if self.seeds < 1:
            raise InputError(f"seeds: {self.seeds}; at least 1 is needed")
        if self.first_seed < 0:
            raise InputError(f"first_seed: {self.first_seed}; 0 or more is needed")
        Budget(scorings=self.budget)
        OBJECTIVES.check(self.objective)
        if self.find_at:
            check_some("find_at", self.find_at)
        for moment in self.find_at:
            Duration.parse(moment, "find_at")

    def _check_caps(self) -> None:
        given = [f"max_{name}" for name in CAPPED if getattr(self, f"max_{name}")]
        if self.capped is None:
            return
        flag = f"max_{self.capped}"
        if len(given) > 1:
            raise InputError(f"{flag}: given beside {given[given[0] == flag]}; give one of them only")
        check_some(flag, self.caps)
        for cap in self.caps:
            if not 1 / RANGE <= cap < 1:
                raise InputError(f"{flag}: {cap}; a share from {1 / RANGE:g} to below 1 is needed")
        if self.granularity != "filter":
            raise InputError(f"{flag}: of {self.granularity} masks all units cost the same; granularity must be filter")

    def _check_method(self, name: str, moment: str) -> None:
        choose("method", name, methods())
        if moment.startswith("gradual"):
            raise InputError(f"methods: {name}@{moment}; gradual pruning is for saliencies and warm_start of searches")
        if moment:
            Duration.parse(moment, f"methods: {name}@{moment}")
        allowed = CRITERIA[name].granularities if name in CRITERIA else ("weight",) if name in SUPERMASKS else None
        if allowed and self.granularity not in allowed:
            raise InputError(
                f"methods: {name} ranks {' and '.join(allowed)} units only, and granularity is {self.granularity}"
            )

    @property
    def seed_range(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def sparsities(self) -> tuple[float, ...]:
        """The sparsities that are asked for, whichever way."""
        if self.capped is not None:
            return tuple(round(1 - cap, 12) for cap in self.caps)
        return self.sparsity

    @property
    def sized_by(self) -> str:
        """The setting that says how small masks are: sparsity, unless another stands in its place."""
        if self.capped is not None:
            return f"max_{self.capped}"
        return "sparsity"

    @property
    def capped(self) -> Capped | None:
        """Which cost masks have caps on, if on any."""
        return next((name for name in CAPPED if getattr(self, f"max_{name}")), None)

    @property
    def caps(self) -> tuple[float, ...]:
        """The caps, as shares of the dense network's cost."""
        return getattr(self, f"max_{self.capped}", ())

    @property
    def moments(self) -> tuple[str, ...]:
        """The moments of the dense training that masks are asked to be found at, by ``find_at`` or by a method."""
        return (*self.find_at, *filter(None, (split_method(method)[1] for method in self.methods)))

    def dense_file(self, seed: int) -> Path:
        """The file with the dense network of a seed, where ``dense`` is one."""
        return Path(self.dense.replace("{seed}", str(seed)))


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


def _check_model(model: str) -> None:
    name = model.partition(":")[0]
    if name == "timm":
        raise InputError(
            f"model: {model}; networks of timm are no rows of --list: give torchvision:NAME, or add a row of your own, "
            "which builds the network, with --plugin (docs/plugins.md)"
        )
    if name != "torchvision":
        choose("model", name, [*MODELS, "torchvision:NAME"])
