"""Groups: the cells of a sweep that differ in nothing but their seed, and what each group is called."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masksearch.analysis.row_labels import told_apart

__all__ = ["Group", "best_rates", "group_cells", "moment_of"]

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """A method at a sparsity, over all seeds."""

    method: str
    variant: str  # what tells it from others of the method: schedule, rounds, rewinding, control, a part's settings
    sparsity: float
    find_at: str  # "early" where the schedule finds it
    way: str  # the variant, and the moment its masks were found at if that tells it from others
    cells: tuple[Cell, ...]
    places: tuple[int, ...]  # theirs among all cells

    @property
    def control(self) -> str:
        """Which control it is; ``none`` if it is no control."""
        return self.cells[0]["control"]

    @property
    def learned(self) -> bool:
        """Whether gradients have made its masks: a supermask, no black-box search and no criterion."""
        return self.cells[0]["learned"]


def group_cells(cells: Sequence[Cell]) -> list[Group]:
    """The groups of finished cells, by sparsity, and within a sparsity in the order of the sweep.

    Where learning rates of retraining are compared, only cells of each sparsity's best one count (:func:`best_rates`).
    """
    kept = best_rates(cells)
    chosen = [cells[place] for place in kept]
    variants, found = _variants(chosen), list(map(moment_of, chosen))
    keys = [(c["method"], v, c["sparsity"], at) for c, v, at in zip(chosen, variants, found, strict=True)]
    places: dict[tuple[str, str, float, str], list[int]] = {}
    for place, (method, variant, sparsity, find_at), part in zip(kept, keys, told_apart(chosen, keys), strict=True):
        known = method, ", ".join(filter(None, [variant, part])), sparsity, find_at
        places.setdefault(known, []).append(place)
    moments: dict[tuple[str, str], set[str]] = {}
    for method, variant, _, find_at in places:
        moments.setdefault((method, variant), set()).add(find_at)
    groups = []
    for (method, variant, sparsity, find_at), own in places.items():
        words = [variant] * bool(variant)
        if len(moments[method, variant]) > 1:
            words.append(f"found at {find_at}")
        members = tuple(cells[place] for place in own)
        groups.append(Group(method, variant, sparsity, find_at, ", ".join(words), members, tuple(own)))
    return sorted(groups, key=lambda group: group.sparsity)  # stable


def best_rates(cells: Iterable[Cell]) -> list[int]:
    """Places of the cells at the learning rate of retraining that is best for their sparsity, for all methods alike.

    Best is the highest validation accuracy after the last epoch, in the mean over everything at that sparsity. A cell
    that ended without one counts as 0.
    """
    cells = list(cells)
    scores: dict[tuple[float, float], list[float]] = {}
    for cell in cells:
        if cell["retrain_lr"] is not None:
            value = cell["trained"]["val_accuracy"] or 0.0
            scores.setdefault((cell["sparsity"], cell["retrain_lr"]), []).append(value)
    best: dict[float, tuple[float, float]] = {}  # sparsity -> (mean, rate)
    for (sparsity, rate), values in scores.items():
        mean = sum(values) / len(values)
        if sparsity not in best or mean > best[sparsity][0]:
            best[sparsity] = (mean, rate)
    return [
        place
        for place, cell in enumerate(cells)
        if cell["retrain_lr"] is None or cell["retrain_lr"] == best[cell["sparsity"]][1]
    ]


def _variants(cells: list[Cell]) -> list[str]:
    """What each cell is called beside its method: only what differs between the cells, and every control."""
    several = {
        name: len({cell[name] for cell in cells}) > 1
        for name in ("granularity", "schedule", "n_rounds", "rewind_to", "retrain_lr")
    }
    caps = {(cell.get("cap") or {}).get("cost") for cell in cells}
    rules = {_rule(cell) for cell in cells if "early_bird" in cell}
    texts = []
    for cell in cells:
        words = []
        if several["granularity"]:
            words.append(f"{cell['granularity']}s")
        if len(caps) > 1 and cell.get("cap"):
            words.append(f"{cell['cap']['cost']} capped")
        if several["schedule"]:
            words.append(cell["schedule"].replace("_", " "))
        if len(rules) > 1 and "early_bird" in cell:
            words.append(_rule(cell))
        if several["n_rounds"] and cell["n_rounds"] > 1:
            words.append(f"{cell['n_rounds']} rounds")
        if several["rewind_to"]:
            words.append({"none": "goes on", "lr": "rate rewound"}.get(cell["rewind_to"], f"from {cell['rewind_to']}"))
        if several["retrain_lr"] and cell["retrain_lr"] is not None:
            words.append(f"lr {cell['retrain_lr']:g}")
        if cell["control"] != "none":
            words.append({"shuffle": "shuffled", "reinit": "reinitialised", "repair": "repaired"}[cell["control"]])
        texts.append(", ".join(words))
    return texts


def moment_of(cell: Cell) -> str:
    """Where its mask was found; "early" where the schedule finds the moment, which is a result and each seed's own."""
    return "early" if "early_bird" in cell else cell["find_at"]


def _rule(cell: Cell) -> str:
    """The early-bird threshold of a cell."""
    rule = cell["early_bird"]
    return f"threshold {rule['threshold']:g}" + " of unrelated masks' distance" * rule["relative"]
