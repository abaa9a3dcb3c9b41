"""Cells: the points of a sweep's grid. A cell's name and folder derive from everything that decides its result."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from masksearch.core.space import Density
from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.experiment.settings.combined import Settings
from masksearch.experiment.settings.schedule_settings import parse_rewind
from masksearch.experiment.settings.search_settings import split_method
from masksearch.experiment.settings.sweep_axes import Capped, parse_layer_sparsity
from masksearch.models import MODELS
from masksearch.schedules import SCHEDULES, Schedule
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.spaces import NetworkSpace
from masksearch.supermasks import SUPERMASKS
from masksearch.training import TrainSettings
from masksearch.training.duration import Duration
from masksearch.utils.registry import Table

__all__ = ["AUTO", "Cell", "dense_identity", "dense_training", "grid", "short_hash"]

AUTO = "auto"
"""A cell's ``find_at`` where the schedule finds the moment."""


@dataclass(frozen=True)
class Cell:
    """One method at one sparsity and seed, with what becomes of its mask."""

    settings: Settings
    method: str
    sparsity: float
    find_at: str  # moment of the dense training, or AUTO
    seed: int
    schedule: str = "one_shot"
    rounds: int = 1
    rewind_to: str = "0"  # in its one spelling: ``0ep`` is ``0``
    retrain_lr: float | None = None  # None: as in the dense training
    control: str = "none"

    @property
    def row(self) -> Schedule:
        """The row of its schedule."""
        return SCHEDULES[self.schedule]

    @property
    def density(self) -> float:
        """1 - sparsity, without the rounding error of the subtraction."""
        return round(1 - self.sparsity, 12)

    def densities(self, space: NetworkSpace) -> list[Density]:
        """After every round: each round prunes the same share of what is alive, in every layer if layers differ."""
        shares = [r / self.rounds for r in range(1, self.rounds + 1)]
        own = dict(map(parse_layer_sparsity, self.settings.sweep.layer_sparsity))
        if not own:
            return [self.density**share if share < 1 else self.density for share in shares]
        final = {layer.name: round(1 - own.pop(layer.name, self.sparsity), 12) for layer in space.layers}
        final |= {name: 1 - sparsity for name, sparsity in own.items()}  # of no layer: the space says so
        return [{name: density**share for name, density in final.items()} for share in shares]

    @property
    def searches(self) -> bool:
        """Whether the method is a searcher."""
        return self.method in SEARCHERS

    @property
    def front(self) -> Capped | None:
        """The cost whose Pareto front with the score is searched, to take the best mask within the cap from it."""
        capped = self.settings.sweep.capped
        return capped if capped and self.searches and self.searcher().supports_costs else None

    @property
    def learns(self) -> bool:
        """Whether the method learns its mask by gradient: a supermask, no black-box search and no criterion."""
        return self.method in SUPERMASKS

    def searcher(self) -> Searcher:
        """A new searcher of the cell's method, with the sweep's settings where there are any."""
        if self.method == "annealing":
            return self.settings.annealing
        searcher = SEARCHERS[self.method]()
        if searcher.names_saliency and self.settings.search.saliencies:
            searcher = searcher.with_settings(saliency=self.settings.search.saliencies[0])
        if searcher.settings_group is not None:
            searcher = searcher.with_settings(**vars(getattr(self.settings, searcher.settings_group)))
        return searcher

    @property
    def epochs(self) -> int | None:
        """Epochs of retraining after the last round, if they are given; None: what the rewinding leaves."""
        asked = self.settings.schedules.retrain_epochs
        return self.row.epochs if asked is None else asked

    def epochs_after(self, number: int) -> int | None:
        """Epochs of training after round ``number``, if they are given."""
        if number == self.rounds:
            return self.epochs
        asked = self.settings.schedules.between_epochs
        if asked is None:
            return self.epochs if self.row.trains_between else 0
        return asked

    def trained_before(self, number: int) -> bool:
        """Whether an earlier round than ``number`` trains, so that its mask is found at what that has left."""
        return any(self.epochs_after(earlier) != 0 for earlier in range(1, number))

    @property
    def treated(self) -> "Cell":
        """The cell whose mask a control takes; for others, the cell itself."""
        return replace(self, control="none")

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the cell's result, as plain values."""
        sweep, scoring, schedules = self.settings.sweep, self.settings.scoring, self.settings.schedules
        identity: dict[str, Any] = {
            "dense": dense_identity(self.settings, self.schedule, self.seed),
            "method": self.method,
            "sparsity": self.sparsity,
            "layer_sparsity": sweep.layer_sparsity,
            "find_at": self.find_at,
            "granularity": sweep.granularity,
            "hold": self.settings.hold,
            "schedule": self.schedule,
            "rounds": self.rounds,
            "rewind_to": self.rewind_to,
            "retrain_lr": self.retrain_lr,
            "control": self.control,
            "epochs": [self.epochs_after(number) for number in range(1, self.rounds + 1)],
            "save_at": schedules.save_at,
            "objective": sweep.objective,
            "search_examples": scoring.search_examples,
            "weights": scoring.weights,
            "layers": scoring.layers,
            "on_empty": scoring.on_empty,
            "connected": scoring.connected,
        }
        if self.searches:
            identity |= {"searcher": repr(self.searcher()), "budget": sweep.budget, "seconds": scoring.seconds}
            identity |= asdict(self.settings.search)
            if self.settings.search.proposals == 1:
                del identity["proposals"]  # as it always was
            if not self.settings.search.rescores:
                identity["rescore_steps"] = None  # nothing is scored again
            if (again := self.settings.search.rescore_by) is None:
                del identity["rescore_by"]
            elif digest := OBJECTIVES.added(again):
                identity["rescore_plugin"] = digest
            if not self.settings.search.finalists:
                del identity["finalists"]
            identity |= {"front": self.front} if self.front else {}
        elif OBJECTIVES[sweep.objective].of_training is not None:  # what its mask is compared by
            identity |= {name: getattr(self.settings.search, name) for name in ("training_steps", "training_lr")}
        if sweep.capped and not self.front:
            identity["capped"] = sweep.capped
        if not self.searches or self.settings.search.criteria:
            identity |= {"scope": scoring.scope, "examples_per_class": scoring.examples_per_class}
        if self.learns:
            identity["supermask"] = asdict(self.settings.supermask)
        if self.row.changes:
            identity |= {"update_every": schedules.update_every, "drop_share": schedules.drop_share}
        if self.row.detects:
            rule = schedules.early_bird(schedules.early_bird_relative)
            identity["early_bird"] = [rule.threshold, rule.relative]
        rows: list[tuple[Table[Any], str]] = [(table, self.method) for table in (SEARCHERS, CRITERIA, SUPERMASKS)]
        if self.searches:
            rows += [(CRITERIA, source.name) for source in self.settings.search.sources]
        return identity | _from_plugins(*rows, (SCHEDULES, self.schedule), (OBJECTIVES, sweep.objective))

    @property
    def front_identity(self) -> dict[str, Any]:
        """Everything that decides its search of a front: the same for all caps, and whatever becomes of the masks."""
        later = ["sparsity", "control", "save_at", "rescore", "rescore_by", "rescore_steps", "rescore_plugin"]
        if OBJECTIVES[self.settings.sweep.objective].of_training is None:
            later += ["schedule", "rewind_to", "epochs", "retrain_lr", "training_steps", "training_lr"]
        return {name: value for name, value in self.identity.items() if name not in later}

    @property
    def study(self) -> str | None:
        """Name of its study in a storage that sweeps share, if one is asked for: equal where scores mean the same."""
        if self.settings.optuna.study is None:
            return None
        own = ("budget", "seconds", "proposals", "front")
        identity = {name: value for name, value in self.front_identity.items() if name not in own}
        label = f"{self.method}_s{self.sparsity:g}_k{self.find_at}_seed{self.seed}".replace(":", "")
        return f"{self.settings.optuna.study}/{label}_{short_hash(identity | {'sparsity': self.sparsity})}"

    @property
    def label(self) -> str:
        """Readable, short, unique within a sweep."""
        schedules = self.settings.schedules
        parts = [self.method]
        if self.schedule != "one_shot":
            parts.append(self.schedule + (str(self.rounds) if self.rounds > 1 else ""))
        parts += [f"s{self.sparsity:g}", f"k{self.find_at}".replace(":", "")]
        if len(schedules.rewind_to) > 1 or len(schedules.schedule) > 1:
            parts.append(f"r{self.rewind_to}".replace(":", ""))
        if self.retrain_lr is not None:
            parts.append(f"lr{self.retrain_lr:g}")
        if self.control != "none":
            parts.append(self.control)
        return "_".join([*parts, f"seed{self.seed}"])

    @property
    def folder(self) -> str:
        """Name of the cell's folder: the label and a hash of :attr:`identity`."""
        return f"{self.label}_{short_hash(self.identity)}"


def grid(settings: Settings) -> list[Cell]:
    """All cells of a sweep, seed by seed, so that every seed's dense network is followed by the cells that use it.

    Without a ``find_at`` every method has its own moment: the end of the dense training for a criterion made for
    trained weights, the start for all others. A criterion that looks at no weights has one cell, at the start, unless
    its ticket goes on from the weights of that moment.
    """
    if settings.schedules.dense_alone:
        return []
    cells = []
    for seed in settings.sweep.seed_range:
        for schedule, rounds, moment, rewind in _plans(settings):
            for lr, sparsity, method in product(
                settings.schedules.retrain_lr or (None,), settings.sweep.sparsities, settings.sweep.methods
            ):
                name, pinned = split_method(method)
                find_at = _moment(name, SCHEDULES[schedule], rewind, pinned, moment)
                cell = Cell(settings, name, sparsity, find_at, seed, schedule, rounds, rewind, lr)
                if cell not in cells:
                    cells += [cell, *(replace(cell, control=control) for control in settings.schedules.control)]
    return cells


def _plans(settings: Settings) -> Iterator[tuple[str, int, str, str]]:
    """Schedule, rounds, find-at ("" for the method's own) and rewind-to of the cells."""
    asked = settings.schedules
    for schedule in asked.schedule:
        row = SCHEDULES[schedule]
        rounds = (asked.rounds or (row.rounds,)) if row.rounds > 1 else (1,)
        for combination in product(rounds, settings.sweep.find_at or ("",), asked.rewind_to or (row.rewind_to,)):
            number, moment, rewind = combination
            yield schedule, number, moment, str(parse_rewind(rewind))


def _moment(method: str, row: Schedule, rewind: str, pinned: str, asked: str) -> str:
    """The moment that a method's mask is found at: its own (``pinned``), or one that is asked for, or the usual one."""
    if row.detects:
        return AUTO
    if row.changes == "ramp":
        return "0"  # its ranking begins with the training
    if pinned:
        return str(Duration.parse(pinned))
    if method in CRITERIA and CRITERIA[method].weights == "none" and rewind not in ("none", "lr"):
        return "0"  # at any moment it finds the same
    if asked:
        return str(Duration.parse(asked))
    return "end" if method in CRITERIA and CRITERIA[method].weights == "trained" and not row.changes else "0"


def dense_training(settings: Settings, schedule: str) -> TrainSettings:
    """How the dense network is trained: as the settings say, with the L1 term that the schedule needs."""
    train, needed = settings.train, SCHEDULES[schedule].bn_l1
    return replace(train, bn_l1=needed) if needed and not train.bn_l1 else train


def dense_identity(settings: Settings, schedule: str, seed: int) -> dict[str, Any]:
    """Everything that decides what the dense network of a seed becomes."""
    identity = {
        "dataset": settings.sweep.dataset,
        "train_examples": settings.scoring.train_examples,
        "val_examples": settings.scoring.val_examples,
        "model": settings.sweep.model,
        "training": asdict(dense_training(settings, schedule)),
        "seed": seed,
    }
    if settings.sweep.dense != "auto":
        path = settings.sweep.dense_file(seed)
        identity["file"] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path)
    rows: list[tuple[Table[Any], str]] = [(MODELS, settings.sweep.model), (DATASETS, settings.sweep.dataset)]
    return identity | _from_plugins(*rows)


def _from_plugins(*rows: tuple[Table[Any], str]) -> dict[str, list[str]]:
    """The digests of the users' files that some of the rows come from: with another file it is another run."""
    digests = {table.added(name.partition(":")[0]) for table, name in rows} - {None}
    return {"plugin": sorted(map(str, digests))} if digests else {}


def short_hash(identity: dict[str, Any]) -> str:
    """8 hex digits of the canonical JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
