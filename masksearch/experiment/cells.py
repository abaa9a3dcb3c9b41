"""Cells: the points of a sweep's grid. A cell's name and folder derive from everything that decides its result."""

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from masksearch.criteria import CRITERIA
from masksearch.duration import Duration
from masksearch.experiment.settings import Settings, parse_rewind
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.training import TrainSettings

__all__ = ["Cell", "dense_identity", "grid", "short_hash"]


@dataclass(frozen=True)
class Cell:
    """One method at one sparsity, with masks found at one moment of the dense training of one seed."""

    settings: Settings
    method: str
    sparsity: float
    find_at: str
    seed: int

    @property
    def density(self) -> float:
        """1 - sparsity, without the rounding error of the subtraction."""
        return round(1 - self.sparsity, 12)

    @property
    def rewind_to(self) -> str:
        """The weights that retraining starts from, in its one spelling: ``0ep`` is ``0``."""
        return str(parse_rewind(self.settings.sweep.rewind_to))

    @property
    def searches(self) -> bool:
        """Whether the method is a searcher, not a criterion."""
        return self.method in SEARCHERS

    def searcher(self) -> Searcher:
        """A new searcher of the cell's method, with the sweep's settings where there are any."""
        return self.settings.annealing if self.method == "annealing" else SEARCHERS[self.method]()

    @property
    def retraining(self) -> TrainSettings:
        """How the masked network is trained: as the dense one, but for the number of epochs if that is given."""
        epochs = self.settings.sweep.retrain_epochs
        return self.settings.train if epochs is None else _with_epochs(self.settings.train, epochs)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the cell's result, as plain values."""
        sweep, scoring = self.settings.sweep, self.settings.scoring
        identity: dict[str, Any] = {
            "dense": dense_identity(self.settings, self.seed),
            "method": self.method,
            "sparsity": self.sparsity,
            "find_at": self.find_at,
            "rewind_to": self.rewind_to,
            "granularity": sweep.granularity,
            "hold": scoring.hold,
            "retraining": asdict(self.retraining),
            "objective": sweep.objective,
            "search_images": scoring.search_images,
            "weights": scoring.weights,
            "layers": scoring.layers,
            "on_empty": scoring.on_empty,
        }
        if self.searches:
            identity |= {"searcher": repr(self.searcher()), "budget": sweep.budget, "seconds": scoring.seconds}
        else:
            identity |= {"scope": scoring.scope, "images_per_class": scoring.images_per_class}
        return identity

    @property
    def label(self) -> str:
        """Readable, short, unique within a sweep."""
        return f"{self.method}_s{self.sparsity:g}_k{self.find_at}_seed{self.seed}"

    @property
    def folder(self) -> str:
        """Name of the cell's folder: the label and a hash of :attr:`identity`."""
        return f"{self.label}_{short_hash(self.identity)}"


def grid(settings: Settings) -> list[Cell]:
    """All cells of a sweep, seed by seed, so that every seed's dense network is followed by the cells that use it.

    Whatever ``find_at`` says, a criterion made for trained weights has one cell per sparsity and seed, at the end of
    the dense training, and one that looks at no weights has one at its beginning.
    """
    sweep = settings.sweep
    cells = []
    for seed, find_at, sparsity, method in product(range(sweep.seeds), sweep.find_at, sweep.sparsity, sweep.methods):
        moment = str(Duration.parse(find_at))
        if method in CRITERIA:
            moment = {"none": "0", "any": moment, "trained": "end"}[CRITERIA[method].weights]
        cell = Cell(settings, method, sparsity, moment, seed)
        if cell not in cells:
            cells.append(cell)
    return cells


def dense_identity(settings: Settings, seed: int) -> dict[str, Any]:
    """Everything that decides what the dense network of a seed becomes."""
    return {
        "dataset": settings.sweep.dataset,
        "train_images": settings.scoring.train_images,
        "model": settings.sweep.model,
        "training": asdict(settings.train),
        "seed": seed,
    }


def short_hash(identity: dict[str, Any]) -> str:
    """8 hex digits of the canonical JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _with_epochs(settings: TrainSettings, epochs: int) -> TrainSettings:
    return TrainSettings(**{**asdict(settings), "epochs": epochs})
