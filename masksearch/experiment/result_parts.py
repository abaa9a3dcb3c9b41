"""Parts of a cell's result: metric, accuracies, scores, masks, rounds, costs and latencies."""

import math
from dataclasses import dataclass, field

from masksearch.spaces import Granularity
from masksearch.training import EpochRow
from masksearch.utils.number_text import number_text

MOMENTS = ("found", "untrained", "best_dense", "trained")
"""Fields of :class:`RoundResult` that test a round's mask, each with another state of the weights."""


@dataclass(frozen=True)
class Metric:
    """Main metric of a task: its name, whether higher is better, and how tables show it (an accuracy in percent)."""

    name: str = "accuracy"
    higher_is_better: bool = True

    @property
    def is_accuracy(self) -> bool:
        """Whether the main metric of a task is the accuracy, which tables give in percent."""
        return self.name == "accuracy"

    @property
    def scale(self) -> float:
        """Factor by which tables multiply a metric's values: 100 for accuracies, 1 for other metrics."""
        return 100.0 if self.is_accuracy else 1.0

    @property
    def unit(self) -> str:
        """Text that tables write after a metric's values: " %" for accuracies, "" for other metrics."""
        return " %" if self.is_accuracy else ""

    @property
    def digits(self) -> int:
        """Number of decimal places with which tables show a metric's values: 2 for accuracies, 3 for other metrics."""
        return 2 if self.is_accuracy else 3

    @property
    def worst(self) -> float:
        """Worst possible value of this metric; it is used in place of the result of a training that diverged."""
        return 0.0 if self.is_accuracy else -self.score(math.inf)

    def score(self, value: float) -> float:
        """Return a value of this metric as a score, for which higher is better: the value, or its negative."""
        return value if self.higher_is_better else -value

    def text(self, value: float | None) -> str:
        """Return a value of this metric as text with its unit, such as ``97.31 %``."""
        number = math.nan if value is None else self.scale * value
        return number_text(number, f"6.{self.digits}f") + self.unit


@dataclass(frozen=True)
class Accuracy:
    """Main metric and loss of a masked network on the test set; a value that is NaN or infinite is stored as None."""

    test_accuracy: float | None  # the metric of the task; in classification the accuracy, in [0, 1]
    test_loss: float | None


@dataclass(frozen=True)
class TrainedAccuracy(Accuracy):
    """Test metric and loss of a masked network after retraining, or, without retraining, with its present weights."""

    constant_outputs: int  # outputs that are equal for all test examples
    val_accuracy: float | None = None  # None: not trained
    best_val_epoch: int | None = None
    diverged: bool = False
    rest_accuracy: float | None = None  # on validation examples that no search has seen; only without training


@dataclass(frozen=True)
class ScoreSummary:
    """Scores of a mask, by the objective of its search and by the task's metric, and how many masks were scored."""

    objective: str
    scorings: int  # by a search; 0 otherwise
    search_score: float | None  # on the search examples
    search_accuracy: float | None  # the metric of the task
    rest_score: float | None  # on the rest of the validation examples
    rest_accuracy: float | None
    gap: float | None  # optimism gap: search score minus rest score
    accuracy_gap: float | None  # the same of the metric; with the other sign where lower is better
    foreign_trials: int = 0  # trials of other searches that shared the study
    rescored: dict[str, float] = field(default_factory=dict)  # "search 1", ..., criteria -> score when scored again
    kept: str | None = None  # the criterion that made the mask, at the start or for a second scoring; None: the search


@dataclass(frozen=True)
class MaskSummary:
    """Number of units that a mask keeps, in total and by layer."""

    granularity: Granularity
    n_units: int
    kept: int
    density: float
    densities: dict[str, float]  # by layer
    empty_layers: list[str]


@dataclass(frozen=True)
class Effort:
    """Seconds that one pruning round took: for the search, the retraining and the test."""

    search: float  # of a search or of learning a supermask
    retrain: float
    test: float  # one pass over the test set after training


@dataclass(frozen=True)
class RoundResult:
    """Result of a pruning round: mask, scores, and test results in four states of the weights, as after training."""

    number: int  # from 1
    score: ScoreSummary
    found: Accuracy  # at the weights that the mask was found at
    untrained: Accuracy  # at the weights that training starts from
    best_dense: Accuracy  # at the best weights of the dense network by validation
    trained: TrainedAccuracy
    mask: MaskSummary
    epochs: list[EpochRow]
    seconds: Effort


@dataclass(frozen=True)
class NetworkCost:
    """Costs of a network: parameters, MACs (multiply-accumulates), and peak memory and file size in bytes."""

    params: int
    nonzero_params: int
    macs: int
    effective_macs: int  # each layer's MACs times its density
    uncounted: dict[str, int]  # operations without a MAC formula, by name
    peak_bytes: int
    bytes: int
    compressed_bytes: int


@dataclass(frozen=True)
class LayerCost:
    """Costs of one layer, in the dense and in the pruned network: MACs and number of weights."""

    macs: int
    weights: int
    macs_left: int
    weights_left: int


@dataclass(frozen=True)
class Latency:
    """Median seconds of a forward pass of 1 and of 64 examples, for the pruned and for the dense network."""

    ticket_batch_1: float
    dense_batch_1: float
    ticket_batch_64: float
    dense_batch_64: float
