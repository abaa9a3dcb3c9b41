"""Axes of a sweep's grid: data set, network, methods, sparsities, moments and seeds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from masksearch.core.problem_and_trials import Budget
from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.experiment.settings.search_settings import split_method
from masksearch.experiment.settings.text_values import check_fields, check_least, check_some
from masksearch.models import MODELS, is_own_function
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS
from masksearch.searchers.optuna.parametrisations import RANGE
from masksearch.spaces import REMOVED, Granularity, ranked_units
from masksearch.supermasks import SUPERMASKS
from masksearch.tasks import TASKS
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError, check_numbers
from masksearch.utils.registry import choose
from masksearch.utils.user_functions import names_function

Capped = Literal["macs", "params", "latency"]
CAPPED: tuple[Capped, ...] = get_args(Capped)

METHODS: dict[Granularity, tuple[str, ...]] = {
    "weight": ("annealing", "random_search", "magnitude", "mag_sign", "snip", "random"),
    "filter": ("annealing", "random_search", "filter_l1", "fpgm", "taylor", "random"),
    "block": ("annealing", "random_search", "block_cosine", "taylor", "mag", "random"),
    "union": ("annealing", "random_search", "taylor", "mag", "random"),
    "nm": ("annealing", "random_search", "magnitude", "snip", "random"),
}
"""Methods of a sweep whose settings name none, by granularity."""

_NM_SPARSITY = (0.5,)


def methods() -> list[str]:
    """Return the names of all pruning methods: searchers, criteria and supermasks."""
    return [*SEARCHERS, *CRITERIA, *SUPERMASKS]


@dataclass(frozen=True)
class SweepSettings:
    """What a sweep compares: data set, network, methods, sparsities, moments at which masks are found, and seeds."""

    dataset: str = "digits"
    """Data: name in --list, imagefolder:PATH, text:PATH, textfolder:PATH or module:function.
    text:PATH has text files for language models, textfolder:PATH texts with classes. module:function or
    path/to/file.py:function names a function of yours that returns ms.Data."""
    task: str | None = None
    """Task of the data: classification, binary, multilabel, regression, segmentation or language_model.
    Data for another task are an error. If not given, the data decide the task."""
    image_size: int | None = None
    """Height and width in pixels to which each image of an image folder is resized and cropped.
    If not given, all images must have one size."""
    text_length: int | None = None
    """Bytes of each example of text, or tokens with model = "transformers:FOLDER".
    If not given, 256 for language models, and 64 for texts with classes."""
    model: str = "lenet_300_100"
    """Network: a name in --list, NAME:WIDTH, torchvision:NAME, timm:NAME, transformers:FOLDER or module:function.
    NAME:WIDTH multiplies the width of a network, as lenet_300_100:0.5. transformers:FOLDER has weights of your own,
    whose tokenizer reads the text. module:function or path/to/file.py:function
    names a function of yours that returns the network, and may take the data."""
    granularity: Granularity = "weight"
    """Unit to prune: weight, filter, block, union or nm.
    One bit of a mask switches one unit. A filter is removed with everything that depends on it. A block is a residual
    branch; "union" has blocks and filters in one mask. "nm" keeps 2 of every 4 weights."""
    methods: tuple[str, ...] = ()
    """Methods to compare, which are searchers, criteria or supermasks: names in --list.
    NAME@MOMENT finds the masks of NAME at that moment of the dense training. If not given, the usual methods of the
    granularity."""
    sparsity: tuple[float, ...] = (0.7, 0.8, 0.9)
    """Shares of the weights, filters or blocks to prune.
    Each share is above 0 and below 1. With granularity = "nm" the share is 0.5."""
    max_macs: tuple[float, ...] = ()
    """Instead of sparsity: upper bounds of the MACs of masked networks, as shares of the dense network's MACs.
    Filters and blocks only. Each optuna_* sampler searches one Pareto front of score and cost for all bounds."""
    max_params: tuple[float, ...] = ()
    """Instead of sparsity: upper bounds of the number of parameters, as shares of the dense network's number.
    Filters and blocks only."""
    max_latency: tuple[float, ...] = ()
    """Instead of sparsity: upper bounds of the measured latency, as shares of the dense network's latency.
    Filters, blocks and optuna_* samplers only, for batches of 64 examples. Measured times differ from run to run."""
    layer_sparsity: tuple[str, ...] = ()
    """Sparsities of single layers, such as fc1=0.9; all other layers have the sweep's sparsity."""
    seeds: int = 3
    """Number of seeds; results are means over them.
    A seed decides initial weights, training and search."""
    first_seed: int = 0
    """First seed; the others follow it, so 5 with 3 seeds means 5, 6 and 7.
    Use different seeds for choosing settings and for reporting results."""
    budget: int = 1000
    """Number of scorings of each search: how many masks it scores.
    A sweep with another number searches from the beginning. ms.search(folder=...) continues a search with a larger
    budget, but its result differs from that of one search with the larger budget."""
    objective: str = "calibrated_loss"
    """Score that a search maximises: a name in --list."""
    find_at: tuple[str, ...] = ()
    """Moments of the dense training at which masks are found: 0, 3ep, 500it, end, best, or best:3ep.
    "3ep" is after 3 epochs, "500it" after 500 steps. "best" is the best epoch by validation, "best:3ep" the best of the
    first 3 epochs. If not given, the usual moment of each method."""
    dense: str = "auto"
    """Where the dense network comes from: auto, or the file of a state dict.
    "auto" trains it, or loads it if it is trained already. {seed} in the file's name is replaced by the seed."""
    train_fn: str | None = None
    """Training loop of yours for dense and masked networks: module:function or path/to/file.py:function.
    f(model, data, *, masks, epochs, seed, device) trains the model in place."""
    devices: int = 1
    """Number of processes that divide each batch, and each scoring of a mask, among them; torchrun sets it.
    Sums over several devices round differently, and BatchNorm takes its statistics on each device."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", tuple(self.methods) or METHODS.get(self.granularity, ()))
        if self.granularity == "nm" and tuple(self.sparsity) == type(self).sparsity:
            object.__setattr__(self, "sparsity", _NM_SPARSITY)
        choose("granularity", self.granularity, list(METHODS))
        self._check_data()
        if not is_own_function(self.model):
            name, colon, _ = self.model.partition(":")
            if not (colon and name in ("torchvision", "timm", "transformers")):
                choose("model", name, [*MODELS, "torchvision:NAME", "timm:NAME", "transformers:FOLDER"])
        check_fields(self, "methods", "sparsity")
        check_least(self, seeds=1, first_seed=0, image_size=1, text_length=2, devices=1)
        check_numbers(self, devices=100_000, seeds=10_000, image_size=10_000, budget=1_000_000_000)
        check_numbers(self, text_length=1_000_000)
        for method in self.methods:
            self._check_method(*split_method(method))
        for sparsity in self.sparsity:
            if not 0 < sparsity < 1:
                raise InputError(f"sparsity: {sparsity}; it must lie between 0 and 1, both excluded")
            if self.granularity == "nm" and sparsity != _NM_SPARSITY[0]:
                raise InputError(
                    f"sparsity: {sparsity}; with granularity nm it is 0.5, that of 2:4 masks: leave sparsity out"
                )
        self._check_caps()
        if self.layer_sparsity:
            check_some("layer_sparsity", tuple(parse_layer_sparsity(text)[0] for text in self.layer_sparsity))
        if self.train_fn is not None and not names_function(self.train_fn):
            raise InputError(f"train_fn: {self.train_fn!r}; allowed is module:function or path/to/file.py:function")
        Budget(scorings=self.budget)
        OBJECTIVES.check(self.objective)
        for moment in self.find_at:
            TrainingMoment.parse(moment, "find_at")

    def _check_data(self) -> None:
        kind = self.dataset.partition(":")[0]
        if self.task is not None:
            TASKS.check(self.task)
        if self.has_own_data:
            return
        choose("data set", kind, list(DATASETS))
        task = DATASETS[kind].task
        if self.task not in (None, task):
            has = "labels for classification" if task == "classification" else f"text for {task}"
            raise InputError(f"task: {self.task}; {kind} has {has}: leave task out")
        if self.text_length is not None and not DATASETS[kind].text:
            raise InputError(f"text_length: {self.text_length}; {kind} has no text, so leave it out")
        if self.image_size is not None and kind != "imagefolder":
            raise InputError(f"image_size: {self.image_size}; images of {kind} have their own size, so leave it out")

    def _check_caps(self) -> None:
        flag, *others = [f"max_{name}" for name in CAPPED if getattr(self, f"max_{name}")] or [""]
        if others:
            raise InputError(f"{flag}: given beside {others[0]}; give one of them only")
        for cap in self.caps:
            if not 1 / RANGE <= cap < 1:
                raise InputError(f"{flag}: {cap}; a share from {1 / RANGE:g} to below 1 is needed")
        if flag and self.granularity not in REMOVED:
            raise InputError(f"{flag}: units of {self.granularity} masks cost the same; granularity must be filter")

    def _check_method(self, name: str, moment: str) -> None:
        choose("method", name, methods())
        if moment.startswith("gradual"):
            raise InputError(f"methods: {name}@{moment}; gradual pruning is for saliencies and warm_start of searches")
        if moment:
            TrainingMoment.parse(moment, f"methods: {name}@{moment}")
        allowed = CRITERIA[name].granularities if name in CRITERIA else ("weight",) if name in SUPERMASKS else None
        if name in SEARCHERS and SEARCHERS[name]().needs_energy:
            allowed = ("filter",)
        units = self.granularity if name in SUPERMASKS else ranked_units(self.granularity)
        if allowed and units not in allowed:
            raise InputError(
                f"methods: {name} ranks {' and '.join(allowed)} units only, and granularity is {self.granularity}; "
                f"add --granularity {allowed[0]}"
            )

    @property
    def has_own_data(self) -> bool:
        """Whether the setting ``dataset`` names a function, written by the user, that returns the data."""
        return self.dataset.partition(":")[0] not in DATASETS and names_function(self.dataset)

    @property
    def tokenizer(self) -> str | None:
        """Folder of the Hugging Face tokenizer if ``model`` is ``transformers:FOLDER``: FOLDER; otherwise None."""
        base, _, folder = self.model.partition(":")
        return folder if base == "transformers" else None

    @property
    def seed_range(self) -> range:
        """All seeds of the sweep, beginning with ``first_seed``."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Sparsities of the sweep: the setting ``sparsity``, or 1 - bound for each upper bound of a cost."""
        return tuple(round(1 - cap, 12) for cap in self.caps) or self.sparsity

    @property
    def sized_by(self) -> str:
        """Name of the setting that decides how many units masks keep: ``sparsity``, or a bound such as ``max_macs``."""
        return f"max_{self.capped}" if self.capped else "sparsity"

    @property
    def capped(self) -> Capped | None:
        """Kind of cost, such as ``macs``, for which masked networks have upper bounds; None if there are no bounds."""
        return next((name for name in CAPPED if getattr(self, f"max_{name}")), None)

    @property
    def caps(self) -> tuple[float, ...]:
        """Upper bounds of masked networks' cost, as shares of the dense network's cost; empty if there are none."""
        return getattr(self, f"max_{self.capped}", ())

    @property
    def moments(self) -> tuple[str, ...]:
        """Moments of the dense training, such as ``3ep``, in the setting ``find_at`` and in methods (``snip@3ep``)."""
        return (*self.find_at, *filter(None, (split_method(method)[1] for method in self.methods)))

    def dense_file(self, seed: int) -> Path:
        """Return the file of the dense network's state dict for a seed, as the setting ``dense`` names it."""
        return Path(self.dense.replace("{seed}", str(seed)))


def parse_layer_sparsity(text: str) -> tuple[str, float]:
    """Parse the sparsity of a single layer into the layer's name and its sparsity: (``fc1``, 0.9) for ``fc1=0.9``."""
    name, _, number = text.rpartition("=")
    try:
        sparsity = float(number)
    except ValueError:
        sparsity = -1.0
    if not name or not 0 <= sparsity < 1:
        raise InputError(f"layer_sparsity: {text!r}; a layer and its sparsity in [0, 1) are needed, as fc1=0.9")
    return name, sparsity
