"""Results of cells and dense networks, as ``metrics.json`` holds them: typed, written and read in one place."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from masksearch.training import EpochRow
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json, write_json

__all__ = [
    "MOMENTS",
    "Accuracy",
    "Cap",
    "CellResult",
    "DenseResult",
    "EarlyBirdResult",
    "Effort",
    "FrontChoice",
    "Latency",
    "LayerCost",
    "MaskSummary",
    "NetworkCost",
    "RoundResult",
    "ScoreSummary",
    "TrainedAccuracy",
]

MOMENTS = ("found", "untrained", "best_dense", "trained")
"""The weights at which a round's mask is evaluated: fields of :class:`RoundResult`."""


@dataclass(frozen=True)
class Accuracy:
    """Figures on the test set at one moment. None stands for a value that is not finite."""

    test_accuracy: float | None  # in [0, 1]
    test_loss: float | None


@dataclass(frozen=True)
class TrainedAccuracy(Accuracy):
    """Figures after the last epoch of retraining."""

    constant_outputs: int  # outputs that are equal for all test examples
    val_accuracy: float | None = None  # None: not trained
    best_val_epoch: int | None = None
    diverged: bool = False
    rest_accuracy: float | None = None  # on validation examples that no search has seen; only without training


@dataclass(frozen=True)
class ScoreSummary:
    """What the objective says of a mask, and what finding the mask took."""

    objective: str
    scorings: int  # by a search; 0 otherwise
    search_score: float | None  # on the search examples
    search_accuracy: float | None
    rest_score: float | None  # on the rest of the validation examples
    rest_accuracy: float | None
    gap: float | None  # optimism gap: search score minus rest score
    accuracy_gap: float | None
    foreign_trials: int = 0  # trials of other searches that shared the study
    rescored: dict[str, float] = field(default_factory=dict)  # "search 1", ..., criteria -> score when scored again
    kept: str | None = None  # the criterion whose mask scored better than the search's best when both were scored again


@dataclass(frozen=True)
class MaskSummary:
    """The size of a mask."""

    granularity: str
    n_units: int
    kept: int
    density: float
    densities: dict[str, float]  # by layer
    empty_layers: list[str]


@dataclass(frozen=True)
class Effort:
    """Seconds of a round."""

    search: float  # of a search or of learning a supermask
    retrain: float
    test: float  # one pass over the test set after training


@dataclass(frozen=True)
class RoundResult:
    """One round of pruning and training: the mask, its score, and its accuracy at four moments."""

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
    """What one forward pass and one copy of a network cost."""

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
    """A layer of the full network, and what the ticket has left of it."""

    macs: int
    weights: int
    macs_left: int
    weights_left: int


@dataclass(frozen=True)
class Latency:
    """Median seconds of a forward pass, ticket and dense network measured in turn."""

    ticket_batch_1: float
    dense_batch_1: float
    ticket_batch_64: float
    dense_batch_64: float


@dataclass(frozen=True)
class DenseResult:
    """The dense network of a seed."""

    test_accuracy: float | None
    test_loss: float | None
    best_test_accuracy: float | None  # of the best weights by validation, not by test
    best_test_loss: float | None
    cost: NetworkCost
    best_val_epoch: int | None
    diverged: bool
    epochs: list[EpochRow] = field(default_factory=list)
    seed: int = 0

    @classmethod
    def load(cls, path: Path) -> "DenseResult":
        """Read a ``metrics.json``."""
        return _load(cls, path)

    def save(self, path: Path) -> None:
        """Write a ``metrics.json``."""
        write_json(path, msgspec.to_builtins(self))

    def without_epochs(self) -> "DenseResult":
        """The result without the rows of the training, as cells repeat it."""
        return replace(self, epochs=[])


@dataclass(frozen=True)
class Cap:
    """An upper limit on a cost."""

    cost: str  # macs, params or latency
    share: float  # of the dense network's


@dataclass(frozen=True)
class FrontChoice:
    """The trial that was chosen from a Pareto front."""

    folder: str
    trial: int
    share: float | None


@dataclass(frozen=True)
class EarlyBirdResult:
    """When the early-bird rule fired."""

    threshold: float
    relative: bool
    fired: int | None  # epoch
    fires: dict[str, int | None]  # "absolute", "relative" -> epoch
    distances: list[list[float | None]]  # (epochs, epochs)


@dataclass(frozen=True)
class CellResult:
    """One finished cell: what it is, every round, and what the last round's network costs."""

    method: str
    learned: bool  # by gradient: a supermask
    granularity: str
    sparsity: float
    find_at: str
    seed: int
    schedule: str
    n_rounds: int
    rewind_to: str
    retrain_lr: float | None
    control: str
    rounds: list[RoundResult]
    cost: NetworkCost
    layers: dict[str, LayerCost]
    latency: Latency
    dense: DenseResult
    cap: Cap | None = None
    front: FrontChoice | None = None
    early_bird: EarlyBirdResult | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # by group and field, from settings.json
    identity: dict[str, Any] = field(default_factory=dict)  # from settings.json

    @classmethod
    def load(cls, folder: Path) -> "CellResult":
        """Read ``metrics.json`` and ``settings.json`` of a cell's folder.

        Raises
        ------
        InputError
            If a file is of another version or was changed.
        """
        result: CellResult = _load(cls, folder / "metrics.json")
        saved = read_json(folder / "settings.json")
        return replace(result, settings=saved["settings"], identity=saved["identity"])

    def save(self, folder: Path) -> None:
        """Write ``metrics.json``."""
        values = msgspec.to_builtins(replace(self, settings={}, identity={}))
        write_json(folder / "metrics.json", values)

    @property
    def last(self) -> RoundResult:
        """The last round: the one that the cell is about."""
        return self.rounds[-1]

    @property
    def trained(self) -> TrainedAccuracy:
        """Figures after retraining, in the last round."""
        return self.last.trained

    @property
    def untrained(self) -> Accuracy:
        """Figures before retraining, in the last round."""
        return self.last.untrained

    @property
    def score(self) -> ScoreSummary:
        """The score of the last round."""
        return self.last.score

    @property
    def mask(self) -> MaskSummary:
        """The mask of the last round."""
        return self.last.mask

    @property
    def scorings(self) -> int:
        """Scorings of all rounds."""
        return sum(round_.score.scorings for round_ in self.rounds)

    @property
    def search_seconds(self) -> float:
        """Seconds of searching, all rounds."""
        return sum(round_.seconds.search for round_ in self.rounds)

    @property
    def retrain_seconds(self) -> float:
        """Seconds of training, all rounds."""
        return sum(round_.seconds.retrain for round_ in self.rounds)


_T = TypeVar("_T")


def _load(kind: type[_T], path: Path) -> _T:
    values = read_json(path)
    try:
        for row in (row for part in (values, *values.get("rounds", ())) for row in part.get("epochs", ())):
            if row["train_loss"] is None:  # JSON has no NaN
                row["train_loss"] = math.nan
        return msgspec.convert(values, kind)
    except (msgspec.ValidationError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: {error}; it was written by another version or changed, so remove its folder and run again"
        ) from None
