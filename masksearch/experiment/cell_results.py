"""Results of a sweep's runs (cells) and dense networks, as ``metrics.json`` holds them: written and read here."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from masksearch.experiment.identity import short_hash
from masksearch.experiment.result_parts import (
    Accuracy,
    Latency,
    LayerCost,
    MaskSummary,
    Metric,
    NetworkCost,
    RoundResult,
    ScoreSummary,
    TrainedAccuracy,
)
from masksearch.experiment.settings.schedule_settings import Control
from masksearch.experiment.settings.sweep_settings import Capped
from masksearch.spaces import Granularity
from masksearch.training import EpochRow
from masksearch.training.record import FORMER_NAMES
from masksearch.utils.errors import InputError
from masksearch.utils.files import read_json, write_json
from masksearch.utils.integrity import folder_remedy, refusing

_FORMAT = 2  # of metrics.json; version 0.1.0 wrote none
_T = TypeVar("_T")


@dataclass(frozen=True)
class DenseResult:
    """Test results, costs and training epochs of the dense (unpruned) network of one seed."""

    seed: int
    test_accuracy: float | None
    test_loss: float | None
    best_test_accuracy: float | None  # of the best weights by validation, not by test
    best_test_loss: float | None
    cost: NetworkCost
    best_val_epoch: int | None
    diverged: bool
    epochs: list[EpochRow] = field(default_factory=list)  # none where the weights come from a file, or in a cell
    metric_name: str = "accuracy"  # of the test results, here and in the results of cells
    higher_is_better: bool = True

    @classmethod
    def load(cls, folder: Path) -> "DenseResult":
        """Read a dense network's result from its ``folder``; raise the same errors as :func:`load_result`."""
        return _convert(_read(folder), cls, folder)

    def save(self, folder: Path) -> None:
        """Write the dense network's result to ``metrics.json`` in ``folder``."""
        _write(folder, msgspec.to_builtins(self))

    @property
    def metric(self) -> Metric:
        """Main metric of the task, by which the dense network is tested."""
        return Metric(self.metric_name, self.higher_is_better)

    @property
    def without_epochs(self) -> "DenseResult":
        """Copy of the dense network's result without training epochs, as results of pruned networks contain it."""
        return replace(self, epochs=[])


@dataclass(frozen=True)
class Cap:
    """Upper bound on a cost of the pruned network, as a share of the dense network's cost."""

    cost: Capped
    share: float  # of the dense network's, in (0, 1)


@dataclass(frozen=True)
class FrontChoice:
    """Mask taken from a search's Pareto front of score and cost: folder of the search, trial, and the mask's cost."""

    folder: str
    trial: int
    share: float | None


@dataclass(frozen=True)
class EarlyBirdResult:
    """Epochs at which early-bird rules count the mask as stable, and the distances between all epochs' masks."""

    threshold: float
    relative: bool
    fired: int | None  # epoch
    fires: dict[str, int | None]  # "absolute", "relative" -> epoch
    distances: list[list[float | None]]  # (epochs, epochs)


@dataclass(frozen=True)
class CellResult:
    """Result of one run of a sweep: method, sparsity and seed, results of all pruning rounds, costs of the network."""

    method: str
    learned: bool  # by gradient: a supermask
    granularity: Granularity
    sparsity: float
    find_at: str
    seed: int
    schedule: str
    n_rounds: int
    rewind_to: str
    retrain_lr: float | None
    control: Control | Literal["none"]
    rounds: list[RoundResult]
    cost: NetworkCost
    layers: dict[str, LayerCost]
    latency: Latency
    dense: DenseResult
    cap: Cap | None = None
    front: FrontChoice | None = None
    early_bird: EarlyBirdResult | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # that decide the result, by group; settings.json
    identity: Mapping[str, Any] = field(default_factory=dict)  # the same and the cell's place; settings.json

    @classmethod
    def load(cls, folder: Path) -> "CellResult":
        """Read the result of a sweep's run from its ``folder``; raise the same errors as :func:`load_result`."""
        saved = read_json(folder / "settings.json", {"identity": dict}, folder_remedy(folder))
        about = {name: saved.get(name, {}) for name in ("settings", "identity")}
        return _convert({**_read(folder, short_hash(saved["identity"])), **about}, cls, folder)

    def save(self, folder: Path) -> None:
        """Write the run's result to ``metrics.json`` in ``folder``, without settings, which ``settings.json`` has."""
        values = msgspec.to_builtins(self)
        del values["settings"], values["identity"]
        _write(folder, values)

    @property
    def flat_settings(self) -> dict[str, object]:
        """Settings of this run as {name with dots: value}, such as {"dense.training.lr": 0.1}."""
        return dict(_flat(self.settings))

    def setting(self, name: str) -> Any:
        """Return this run's setting ``name``, from the first group of settings that has it; None if no group has it."""
        return find_setting(self.settings, name)

    @property
    def distill(self) -> float:
        """Weight of the distillation loss (from the dense network) in retraining; 0 means no distillation."""
        return float(self.setting("distill") or 0.0)

    @property
    def distill_temperature(self) -> float | None:
        """Temperature of distillation in retraining; None if there is no distillation."""
        return self.setting("distill_temperature") if self.distill else None

    @property
    def metric(self) -> Metric:
        """Main metric of the task, by which networks are tested and validated."""
        return self.dense.metric

    @property
    def last(self) -> RoundResult:
        """Result of the run's last pruning round, which has the final mask."""
        return self.rounds[-1]

    @property
    def trained(self) -> TrainedAccuracy:
        """Test results of the run's final masked network after retraining."""
        return self.last.trained

    @property
    def untrained(self) -> Accuracy:
        """Test results of the run's final masked network before retraining."""
        return self.last.untrained

    @property
    def score(self) -> ScoreSummary:
        """Scores of the run's final mask, by the search's objective and by the task's metric."""
        return self.last.score

    @property
    def mask(self) -> MaskSummary:
        """Number of units that the run's final mask keeps, in total and by layer."""
        return self.last.mask

    @property
    def epochs(self) -> list[EpochRow]:
        """Losses and metrics of every training epoch after the run's last pruning round."""
        return self.last.epochs

    @property
    def scorings(self) -> int:
        """Number of masks that searches have scored, summed over all pruning rounds of this run."""
        return sum(round_.score.scorings for round_ in self.rounds)

    @property
    def foreign_trials(self) -> int:
        """Number of trials that other searches added to a shared Optuna study, summed over all pruning rounds."""
        return sum(round_.score.foreign_trials for round_ in self.rounds)

    @property
    def kept_criteria(self) -> list[str]:
        """Names of criteria that made this run's masks, where its search found no better one; one per round at most."""
        return [round_.score.kept for round_ in self.rounds if round_.score.kept is not None]

    @property
    def search_seconds(self) -> float:
        """Seconds spent on searching or learning masks, summed over all pruning rounds of this run."""
        return sum(round_.seconds.search for round_ in self.rounds)

    @property
    def retrain_seconds(self) -> float:
        """Seconds spent on training the masked network, summed over all pruning rounds of this run."""
        return sum(round_.seconds.retrain for round_ in self.rounds)

    @property
    def test_seconds(self) -> float:
        """Seconds of one pass over the test set after the last pruning round."""
        return self.last.seconds.test

    @property
    def speedup(self) -> float:
        """Latency of the dense network divided by that of the pruned network, for batches of 64 examples."""
        return self.latency.dense_batch_64 / self.latency.ticket_batch_64

    def cost_share(self, cost: Capped) -> float:
        """Return the pruned network's ``macs``, ``params`` or ``latency`` as a share of the dense network's."""
        if cost == "latency":
            return self.latency.ticket_batch_64 / self.latency.dense_batch_64
        if cost == "macs":
            return self.cost.effective_macs / self.dense.cost.macs
        return self.cost.params / self.dense.cost.params


def load_result(folder: Path) -> CellResult | DenseResult:
    """Read the result stored in a folder, which belongs to one run of a sweep or to a dense network.

    Raises
    ------
    InputError
        If a file is missing, of another version, or was changed.
    """
    return CellResult.load(folder) if "rounds" in _read(folder) else DenseResult.load(folder)


def find_setting(settings: Mapping[str, Any], name: str) -> Any:
    """Return the setting ``name`` from the first group of ``settings`` that has it; None if no group has it.

    The group ``searcher`` is left out.
    """
    found = _inner({table: values for table, values in settings.items() if table != "searcher"}, name)
    return found[0] if found else None


def _inner(settings: Mapping[str, Any], name: str) -> tuple[Any] | None:
    """The first setting with a name, at any depth; None if there is none."""
    for key, value in settings.items():
        found = _inner(value, name) if isinstance(value, Mapping) else (value,) if key == name else None
        if found:
            return found
    return None


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _write(folder: Path, values: dict[str, object]) -> None:
    write_json(folder / "metrics.json", {"format": _FORMAT, "run": _run_of(folder), **values})


def _run_of(folder: Path) -> str | None:
    """Return the hash of the identity in ``settings.json``, by which results belong to their folder; None without."""
    file = folder / "settings.json"
    if not file.exists():
        return None
    return short_hash(read_json(file, {"identity": dict}, folder_remedy(folder))["identity"])


def _read(folder: Path, belongs_to: str | None = None) -> dict[str, object]:
    """The content of ``metrics.json``, if it is of the run with the hash ``belongs_to``, or of ``settings.json``."""
    path = folder / "metrics.json"
    values = read_json(path, {}, folder_remedy(folder))
    found = values.get("format")
    if found != _FORMAT:
        raise InputError(
            f"{path} has format {str(found or 1)[:20]} and this version reads format {_FORMAT}; {folder_remedy(folder)}"
        )
    run = values.pop("run", None)  # none in version 1.0 and before
    if run is not None and run != (belongs_to or _run_of(folder)):
        raise InputError(f"{path} is the result of another run than settings.json beside it; {folder_remedy(folder)}")
    return dict(values)


def _convert(values: dict[str, object], kind: type[_T], folder: Path) -> _T:
    try:
        with refusing(folder / "metrics.json", folder_remedy(folder)):
            found = msgspec.convert(_with_nan(values), kind)
    except InputError as error:
        reason = error.__cause__ or error
        raise InputError(f"{folder / 'metrics.json'} was changed ({reason}); {folder_remedy(folder)}") from None
    if isinstance(found, CellResult) and not found.rounds:
        raise InputError(f"{folder / 'metrics.json'} has no rounds; {folder_remedy(folder)}")
    if isinstance(found, CellResult) and found.seed != found.dense.seed:
        raise InputError(
            f"{folder / 'metrics.json'} has seed {found.seed} and a dense network of seed {found.dense.seed}; "
            f"{folder_remedy(folder)}"
        )
    return found


def _with_nan(node: Any) -> Any:
    """Replace every ``train_loss`` of null by NaN, as JSON has no NaN, and former names of fields by today's."""
    if isinstance(node, list):
        return list(map(_with_nan, node))
    if not isinstance(node, dict):
        return node
    if "train_loss" not in node:
        return {name: _with_nan(value) if isinstance(value, list | dict) else value for name, value in node.items()}
    return {
        FORMER_NAMES.get(name, name): math.nan if name == "train_loss" and value is None else _with_nan(value)
        for name, value in node.items()  # FORMER_NAMES: in files of version 1.0 and before
    }
