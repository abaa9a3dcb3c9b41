"""Groups: the cells of a sweep that differ in nothing but their seed, and what each group is called."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from masksearch.analysis.row_labels import row_labels
from masksearch.experiment.results import CellResult, EarlyBirdResult

__all__ = ["Group", "best_rates", "group_cells", "moment_of", "name_of"]


def name_of(method: str, learned: bool = False) -> str:
    """Return a method's name for tables and legends, with a mark if gradients train its masks."""
    return method.replace("_", " ") + " (learned)" * learned


@dataclass(frozen=True)
class Group:
    """A method at a sparsity, over all seeds."""

    method: str
    variant: str  # schedule, rounds, rewinding, control and settings, where groups of the method differ in them
    sparsity: float
    find_at: str  # "early" where the schedule finds it
    label: str  # the variant, and the moment that masks were found at where groups of the variant differ in it
    cells: tuple[CellResult, ...]
    places: tuple[int, ...]  # of the cells among all cells

    @property
    def name(self) -> str:
        """Method and label, as tables and legends write them."""
        return ", ".join(filter(None, [name_of(self.method, self.learned), self.label]))

    @property
    def control(self) -> str:
        """Name of the control that the group is; ``none`` if the group is no control."""
        return self.cells[0].control

    @property
    def learned(self) -> bool:
        """Whether gradients have made its masks: a supermask, no black-box search and no criterion."""
        return self.cells[0].learned


def group_cells(cells: Sequence[CellResult]) -> list[Group]:
    """The groups of finished cells, by sparsity, and within a sparsity in the order of the sweep.

    Where learning rates of retraining are compared, only cells of each sparsity's best one count (:func:`best_rates`).
    """
    kept = best_rates(cells)
    chosen = [cells[place] for place in kept]
    variants, found = _variants(chosen), list(map(moment_of, chosen))
    keys = [(c.method, v, c.sparsity, at) for c, v, at in zip(chosen, variants, found, strict=True)]
    places: dict[tuple[str, str, float, str], list[int]] = {}
    for place, (method, variant, sparsity, find_at), part in zip(kept, keys, row_labels(chosen, keys), strict=True):
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


def best_rates(cells: Iterable[CellResult]) -> list[int]:
    """Places of the cells at the learning rate of retraining that is best for their sparsity, for all methods alike.

    Best is the highest validation accuracy after the last epoch, in the mean over everything at that sparsity. A cell
    that ended without one counts as 0.
    """
    cells = list(cells)
    scores: dict[tuple[float, float], list[float]] = {}
    for cell in cells:
        if cell.retrain_lr is not None:
            value = cell.trained.val_accuracy or 0.0
            scores.setdefault((cell.sparsity, cell.retrain_lr), []).append(value)
    best: dict[float, tuple[float, float]] = {}  # sparsity -> (mean, rate)
    for (sparsity, rate), values in scores.items():
        mean = sum(values) / len(values)
        if sparsity not in best or mean > best[sparsity][0]:
            best[sparsity] = (mean, rate)
    return [
        place
        for place, cell in enumerate(cells)
        if cell.retrain_lr is None or cell.retrain_lr == best[cell.sparsity][1]
    ]


def _variants(cells: list[CellResult]) -> list[str]:
    """What each cell is called beside its method: only what differs between the cells, and every control."""
    several = {
        name
        for name in ("granularity", "schedule", "n_rounds", "rewind_to", "retrain_lr")
        if len({getattr(cell, name) for cell in cells}) > 1
    }
    caps = {cell.cap and cell.cap.cost for cell in cells}
    rules = {_rule(cell.early_bird) for cell in cells if cell.early_bird}
    texts = []
    for cell in cells:
        words = []
        if "granularity" in several:
            words.append(f"{cell.granularity}s")
        if len(caps) > 1 and cell.cap:
            words.append(f"{cell.cap.cost} capped")
        if "schedule" in several:
            words.append(cell.schedule.replace("_", " "))
        if len(rules) > 1 and cell.early_bird:
            words.append(_rule(cell.early_bird))
        if "n_rounds" in several and cell.n_rounds > 1:
            words.append(f"{cell.n_rounds} rounds")
        if "rewind_to" in several:
            words.append({"none": "goes on", "lr": "rate rewound"}.get(cell.rewind_to, f"from {cell.rewind_to}"))
        if "retrain_lr" in several and cell.retrain_lr is not None:
            words.append(f"lr {cell.retrain_lr:g}")
        if cell.control != "none":
            words.append({"shuffle": "shuffled", "reinit": "reinitialised", "repair": "repaired"}[cell.control])
        texts.append(", ".join(words))
    return texts


def moment_of(cell: CellResult) -> str:
    """Where its mask was found; "early" where the schedule finds the moment, which is a result and each seed's own."""
    return "early" if cell.early_bird else cell.find_at


def _rule(rule: EarlyBirdResult) -> str:
    return f"threshold {rule.threshold:g}" + " of unrelated masks' distance" * rule.relative
