"""Cells of a sweep: one method at one sparsity and seed each, in a folder named by all that decides its result."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from masksearch.core.density_allocation import Amount, Density
from masksearch.criteria import CRITERIA, start_criterion
from masksearch.data import DATASETS
from masksearch.experiment.identity import (
    CellIdentity,
    Deciding,
    DenseIdentity,
    changed_fields,
    deciding_fields,
    short_hash,
    without,
)
from masksearch.experiment.settings.all_settings import ON_EMPTY, SCOPES, Settings
from masksearch.experiment.settings.schedule_settings import Control
from masksearch.experiment.settings.sweep_settings import Capped, parse_layer_sparsity
from masksearch.models import MODELS, is_own_function
from masksearch.models.hugging_face import folder_digest
from masksearch.schedules import SCHEDULES, Schedule
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.spaces import NetworkSpace
from masksearch.supermasks import SUPERMASKS
from masksearch.training import TrainSettings
from masksearch.utils.registry import Table
from masksearch.utils.user_functions import source_digest

AUTO = "auto"
"""Value of a cell's ``find_at`` where the early-bird schedule chooses the moment."""


_USUAL = TrainSettings()


@dataclass(frozen=True)
class Cell:
    """One run of a sweep (a cell of its grid): one method at one sparsity and seed, with a schedule of retraining."""

    settings: Settings
    method: str
    sparsity: float
    find_at: str  # moment of the dense training, or AUTO
    seed: int
    schedule: str = "one_shot"
    rounds: int = 1
    rewind_to: str = "0"  # in its one spelling: ``0ep`` is ``0``
    retrain_lr: float | None = None  # None: as in the dense training
    control: Control | Literal["none"] = "none"
    distill: float | None = None  # None: as in the settings of training
    distill_temperature: float | None = None  # the same; None without distillation
    data_digest: str = ""  # of examples and task; empty: the data set's name alone stands for them
    differing: str = ""  # settings in which this cell differs from others of the same name; for the label alone

    @property
    def row(self) -> Schedule:
        """Definition of this run's pruning schedule: a description, and defaults such as the number of rounds."""
        return SCHEDULES[self.schedule]

    @property
    def density(self) -> float:
        """Share of units that the mask of this run keeps: 1 - sparsity, rounded to 12 digits."""
        return round(1 - self.sparsity, 12)

    @property
    def train(self) -> TrainSettings:
        """Training settings of this run of the sweep, with the run's weight and temperature of distillation."""
        train = self.settings.train
        if self.distill is None and not self.distill_temperature:
            return train
        return replace(
            train,
            distill=train.distill if self.distill is None else self.distill,
            distill_temperature=self.distill_temperature or train.distill_temperature,
        )

    def amounts(self, space: NetworkSpace) -> list[Amount]:
        """Return, per pruning round, how much of the network the round's mask keeps: density and its split by layer."""
        final: Density = self.density
        own = dict(map(parse_layer_sparsity, self.settings.sweep.layer_sparsity))
        if own:
            final = {layer.name: round(1 - own.pop(layer.name, self.sparsity), 12) for layer in space.layers}
            final |= {name: 1 - sparsity for name, sparsity in own.items()}  # the space refuses unknown layers
        settings = self.settings
        return Amount(final, settings.hold, settings.scope, settings.on_empty).in_rounds(self.rounds)

    @property
    def searches(self) -> bool:
        """Whether the method of this run is a searcher, which proposes masks and has them scored."""
        return self.method in SEARCHERS

    @property
    def front(self) -> Capped | None:
        """Kind of cost, such as ``macs``, of the Pareto front that this run searches; None if it searches no front."""
        capped = self.settings.sweep.capped
        return capped if capped and self.searches and self.searcher().supports_costs else None

    @property
    def learns(self) -> bool:
        """Whether the method of this run learns its mask by gradient descent, as supermasks do."""
        return self.method in SUPERMASKS

    def searcher(self) -> Searcher:
        """Return a new searcher of this run's method (such as ``annealing``), with the sweep's settings."""
        if self.method == "annealing":
            return self.settings.annealing.with_settings()  # a copy: a search leaves its state in its searcher
        searcher = SEARCHERS[self.method]()
        if searcher.names_saliency and self.settings.search.saliencies:
            searcher = searcher.with_settings(saliency=self.settings.search.saliencies[0])
        if searcher.settings_group is not None:
            searcher = searcher.with_settings(**vars(getattr(self.settings, searcher.settings_group)))
        return searcher

    @property
    def epochs(self) -> int | None:
        """Training epochs after the last pruning round; None: as many as the dense training has after ``rewind_to``."""
        asked = self.settings.schedules.retrain_epochs
        return self.row.epochs if asked is None else asked

    def epochs_after(self, number: int) -> int | None:
        """Return epochs of training after round ``number``; None: as many as dense training has after ``rewind_to``."""
        asked = self.settings.schedules.between_epochs
        if number == self.rounds or (asked is None and self.row.trains_between):
            return self.epochs
        return asked or 0

    def trained_before(self, number: int) -> bool:
        """Return whether the network is trained in any pruning round before round ``number``."""
        return any(self.epochs_after(earlier) != 0 for earlier in range(1, number))

    @property
    def usual_start(self) -> str | None:
        """Criterion whose mask the search starts from if ``warm_start`` is ``auto``; None means a random mask."""
        trained = self.searches and self.find_at != "0" and not self.front  # a front has masks of many sizes
        return start_criterion(self.searcher(), self.settings.sweep.granularity) if trained else None

    @property
    def treated(self) -> "Cell":
        """For a control network, the run of the sweep (a Cell) whose mask it reuses; otherwise this run."""
        return replace(self, control="none")

    @property
    def conditions(self) -> dict[str, bool]:
        """Facts about this run that say which settings decide its result, as {name: bool}, such as {"learns": True}."""
        search, objective = self.settings.search, OBJECTIVES[self.settings.sweep.objective]
        return {
            "searches": self.searches,
            "learns": self.learns,
            "uses_criteria": not self.searches or bool(search.criteria),
            "trains_to_score": self.searches or objective.of_training is not None,
            "rescores": self.searches and search.rescores,
            "repairs": self.settings.repairs,
            "anneals": self.method == "annealing",
            "samples_with_optuna": self.searches and self.searcher().settings_group == "optuna",
            "distills": self.train.distill > 0,
            "changes_masks": self.row.changes is not None,
            "detects_early_birds": self.row.detects,
        }

    def deciding_settings(self, *, complete: bool = True) -> Deciding:
        """Return settings that decide this run's result, {group: {name: value}}; ``complete`` adds default values."""
        granularity = self.settings.sweep.granularity
        usual = {"scoring.scope": SCOPES[granularity], "scoring.on_empty": ON_EMPTY[granularity]}
        settings = replace(self.settings, train=self.train) if complete else self.settings
        return deciding_fields(settings, self.conditions, usual=usual, complete=complete)

    @property
    def dense_identity(self) -> DenseIdentity:
        """Values (settings and hashes) that decide the trained weights of this run's dense (unpruned) network."""
        return dense_identity(self.settings, self.schedule, self.seed, self.data_digest)

    @property
    def identity(self) -> CellIdentity:
        """Values that decide the result of this run of the sweep. Settings at their default are left out."""
        identity: CellIdentity = {
            "dense": self.dense_identity,
            "method": self.method,
            "sparsity": self.sparsity,
            "find_at": self.find_at,
            "hold": self.settings.hold,
            "schedule": self.schedule,
            "rounds": self.rounds,
            "rewind_to": self.rewind_to,
            "retrain_lr": self.retrain_lr,
            "control": self.control,
            "epochs": [self.epochs_after(number) for number in range(1, self.rounds + 1)],
            "settings": self.deciding_settings(complete=False),
        }
        if self.settings.sweep.capped:
            if self.front:
                identity["front"] = self.front
            else:
                identity["capped"] = self.settings.sweep.capped
        if self.train.distill:
            identity["distill"] = [self.train.distill, self.train.distill_temperature]
        rows: list[tuple[Table[Any], str]] = [(table, self.method) for table in (SEARCHERS, CRITERIA, SUPERMASKS)]
        rows += [(SCHEDULES, self.schedule), (OBJECTIVES, self.settings.sweep.objective)]
        if self.searches:
            rows += [(CRITERIA, source.name) for source in self.settings.search.sources]
            again = self.settings.search.rescore_by
            if again is not None and (digest := OBJECTIVES.added(again)):
                identity["rescore_plugin"] = digest
        if plugins := plugin_digests(*rows):
            identity["plugin"] = plugins
        return identity

    @property
    def front_identity(self) -> dict[str, object]:
        """Values that decide the result of this run's search of a Pareto front, ready for JSON.

        Cells with different cost bounds have equal values, and share the search.
        """
        later = ["sparsity", "control", "schedules.save_at", "rescore_plugin", "distill"]
        later += ["search.rescore", "search.rescore_by", "search.rescore_steps"]
        if OBJECTIVES[self.settings.sweep.objective].of_training is None:
            later += ["schedule", "rewind_to", "epochs", "retrain_lr", "search.training_steps", "search.training_lr"]
        return without(self.identity, later)

    @cached_property
    def dense_folder(self) -> str:
        """Name of the dense network's folder in ``runs/dense``, with a hash of what decides the network's weights."""
        sweep = self.settings.sweep
        name = f"{sweep.dataset}_{sweep.model}_seed{self.seed}".replace("/", "-").replace(":", "-")
        return f"{name}_{short_hash(self.dense_identity)}"

    @property
    def study(self) -> str | None:
        """Name of the Optuna study that this run of the sweep shares with other sweeps; None if it shares no study."""
        if self.settings.optuna.study is None:
            return None
        identity = without(
            self.front_identity, ["sweep.budget", "scoring.seconds", "search.proposals", "front", "optuna.study"]
        )
        label = f"{self.method}_s{self.sparsity:g}_k{self.find_at}_seed{self.seed}".replace(":", "")
        return f"{self.settings.optuna.study}/{label}_{short_hash(identity | {'sparsity': self.sparsity})}"

    @property
    def label(self) -> str:
        """Short name of this run of a sweep, such as ``magnitude_s0.9_kend_seed0``; no other run of the sweep has it.

        Runs of the same name in a sweep of several parts have the settings that differ, as ``... (scope layerwise)``.
        """
        return f"{self.name} ({self.differing})" if self.differing else self.name

    @property
    def name(self) -> str:
        """Short name of this run, such as ``magnitude_s0.9_kend_seed0``; runs of other recipe parts may share it."""
        schedules = self.settings.schedules
        parts = [self.method]
        if self.schedule != "one_shot":
            parts.append(self.schedule + (str(self.rounds) if self.rounds > 1 else ""))
        parts += [f"s{self.sparsity:g}", f"k{self.find_at}".replace(":", "")]
        if len(schedules.rewind_to) > 1 or len(schedules.schedule) > 1:
            parts.append(f"r{self.rewind_to}".replace(":", ""))
        if self.retrain_lr is not None:
            parts.append(f"lr{self.retrain_lr:g}")
        if self.distill is not None:
            parts.append(f"distill{self.distill:g}")
        if self.distill_temperature is not None:
            parts.append(f"t{self.distill_temperature:g}")
        if self.control != "none":
            parts.append(self.control)
        return "_".join([*parts, f"seed{self.seed}"])

    @cached_property
    def folder(self) -> str:
        """Name of the folder of this run of a sweep: its short name, and 8 hex digits of a hash of its settings."""
        return f"{self.name}_{short_hash(self.identity)}"


def dense_training(settings: Settings, schedule: str) -> TrainSettings:
    """Return settings to train a dense network: no distillation; L1 on BatchNorm scales if the schedule needs it."""
    usual, needed = _USUAL, SCHEDULES[schedule].bn_l1
    train = settings.train
    if (train.distill, train.distill_temperature) != (usual.distill, usual.distill_temperature):
        train = replace(train, distill=usual.distill, distill_temperature=usual.distill_temperature)
    return replace(train, bn_l1=needed) if needed and not train.bn_l1 else train


def dense_identity(settings: Settings, schedule: str, seed: int, data_digest: str = "") -> DenseIdentity:
    """Return the values (settings and hashes) that decide the trained weights of one seed's dense (unpruned) network.

    ``data_digest`` stands for the content of the data; empty: the data set's name alone decides.
    """
    identity: DenseIdentity = {
        "dataset": settings.sweep.dataset,
        "train_examples": settings.scoring.train_examples,
        "val_examples": settings.scoring.val_examples,
        "model": settings.sweep.model,
        "training": changed_fields(dense_training(settings, schedule)),
        "seed": seed,
    }
    if settings.sweep.image_size is not None:
        identity["image_size"] = settings.sweep.image_size
    if settings.sweep.text_length is not None:
        identity["text_length"] = settings.sweep.text_length
    if settings.sweep.devices > 1:
        identity["devices"] = settings.sweep.devices
    if data_digest:
        identity["data"] = data_digest
    if settings.sweep.dense != "auto":
        path = settings.sweep.dense_file(seed)
        identity["file"] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path)
    if is_own_function(settings.sweep.model):
        identity["model_source"] = source_digest(settings.sweep.model)
    if settings.sweep.tokenizer is not None:
        identity["model_source"] = folder_digest(settings.sweep.tokenizer)
    if settings.sweep.train_fn is not None:
        identity["train_fn"] = [settings.sweep.train_fn, source_digest(settings.sweep.train_fn)]
    rows: list[tuple[Table[Any], str]] = [(MODELS, settings.sweep.model), (DATASETS, settings.sweep.dataset)]
    if plugins := plugin_digests(*rows):
        identity["plugin"] = plugins
    return identity


def plugin_digests(*rows: tuple[Table[Any], str]) -> list[str]:
    """Return the sorted hashes of the plugin files that define the named methods or networks; [] for built-in ones."""
    return sorted({digest for table, name in rows if (digest := table.added(name.partition(":")[0])) is not None})
