"""Groups: results of a sweep that differ only in their seed, with names and labels for tables and figures."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from masksearch.experiment.cell_results import CellResult
from masksearch.spaces import UNITS


def name_of(method: str, learned: bool = False) -> str:
    """Return a method's name for tables and legends, with "(learned)" if gradient descent trains its masks."""
    return method.replace("_", " ") + " (learned)" * learned


@dataclass(frozen=True)
class Group:
    """Results of one method at one sparsity, over all seeds."""

    method: str
    variant: str  # schedule, rounds, rewinding, control and settings, where groups of the method differ in them
    sparsity: float
    find_at: str  # "early" where the schedule finds it
    label: str  # the variant, and the moment that masks were found at where groups of the variant differ in it
    cells: tuple[CellResult, ...]
    places: tuple[int, ...]  # of the cells among all cells

    @property
    def name(self) -> str:
        """Name of a group of results in tables and legends: method, and settings that differ between groups."""
        return ", ".join(filter(None, [name_of(self.method, self.learned), self.label]))

    @property
    def control(self) -> str:
        """Kind of control network that the group's results come from, such as "shuffle"; "none" for masked networks."""
        return self.cells[0].control

    @property
    def learned(self) -> bool:
        """Whether the group's masks are learned by gradient descent (supermasks)."""
        return self.cells[0].learned


def group_cells(cells: Sequence[CellResult]) -> list[Group]:
    """Return results in groups whose members differ only in the seed; the groups are sorted by sparsity.

    Where learning rates of retraining are compared, only cells of the best one per method count (:func:`best_rates`).
    """
    kept = best_rates(cells)
    chosen = [cells[place] for place in kept]
    keys = [(c.method, v, c.sparsity, moment_of(c)) for c, v in zip(chosen, _variants(chosen), strict=True)]
    places: dict[tuple[str, str, float, str], list[int]] = {}
    moments: dict[tuple[str, str], set[str]] = {}
    for place, (method, text, sparsity, find_at), label in zip(kept, keys, setting_labels(chosen, keys), strict=True):
        variant = ", ".join(filter(None, [text, label]))
        places.setdefault((method, variant, sparsity, find_at), []).append(place)
        moments.setdefault((method, variant), set()).add(find_at)
    groups = []
    for (method, variant, sparsity, find_at), own in places.items():
        found = f"found at {find_at}" * (len(moments[method, variant]) > 1)
        label = ", ".join(filter(None, [variant, found]))
        members = tuple(cells[place] for place in own)
        groups.append(Group(method, variant, sparsity, find_at, label, members, tuple(own)))
    return sorted(groups, key=lambda group: group.sparsity)  # stable


def best_rates(cells: Iterable[CellResult]) -> list[int]:
    """Return indices of the results with the learning rate of retraining that is best for their method and sparsity.

    Best is the best mean validation metric after the last epoch, over all cells of a method at a sparsity.
    A cell that ended without one has the worst value, in classification 0.
    """
    cells = list(cells)
    scores: dict[tuple[str, float], dict[float, list[float]]] = {}  # by method and sparsity, then by learning rate
    for cell in cells:
        if cell.retrain_lr is not None:
            rates = scores.setdefault((cell.method, cell.sparsity), {})
            value = cell.trained.val_accuracy
            score = cell.metric.score(cell.metric.worst if value is None else value)
            rates.setdefault(cell.retrain_lr, []).append(score)
    means = {point: {rate: sum(v) / len(v) for rate, v in rates.items()} for point, rates in scores.items()}
    best = {point: max(rates, key=rates.__getitem__) for point, rates in means.items()}
    return [
        place for place, cell in enumerate(cells) if cell.retrain_lr in (None, best.get((cell.method, cell.sparsity)))
    ]


_REWINDING = {"none": "training continued", "lr": "learning rate rewound", "random": "new weights"}
_CONTROLS = {"none": "", "shuffle": "shuffled", "reinit": "reinitialised", "repair": "repaired"}


def _variants(cells: list[CellResult]) -> list[str]:
    """Return each cell's label beside its method: the settings in which cells differ, and every control."""
    words = [
        {
            "granularity": UNITS[cell.granularity],
            "cap": f"{cell.cap.cost} capped" if cell.cap else "",
            "schedule": cell.schedule.replace("_", " "),
            "rule": _rule(cell),
            "rounds": f"{cell.n_rounds} rounds" if cell.n_rounds > 1 else "",
            "rewinding": _REWINDING.get(cell.rewind_to, f"rewound to {cell.rewind_to}"),
            "rate": "" if cell.retrain_lr is None else f"lr {cell.retrain_lr:g}",
            "distillation": f"distillation {cell.distill:g}" if cell.distill else "",
            "temperature": f"temperature {cell.distill_temperature:g}" if cell.distill else "",
            "control": _CONTROLS[cell.control],
        }
        for cell in cells
    ]
    texts = {name: {own[name] for own in words} for name in (words[0] if words else ())}
    for name in ("rule", "temperature"):  # other schedules have no rule, other cells no temperature
        texts[name] = texts.get(name, set()) - {""}
    shown = {name for name, own in texts.items() if len(own) > 1 or name == "control"}
    return [", ".join(text for name, text in own.items() if text and name in shown) for own in words]


def _rule(cell: CellResult) -> str:
    rule = cell.early_bird
    return f"threshold {rule.threshold:g}" + " of unrelated masks' distance" * rule.relative if rule else ""


def moment_of(cell: CellResult) -> str:
    """Return when in the dense training a result's mask was found, such as "3ep"; "early" for an early-bird mask."""
    return "early" if cell.early_bird else cell.find_at


_WORDS = {"scope": {"erk": "ERK"}, "connected": {"True": "connected", "False": ""}}
_OF_A_SEED = ("seed", "file")


def setting_labels(cells: Sequence[CellResult], keys: Sequence[Hashable]) -> list[str]:
    """Return a label per result: the settings, except the seed, that differ between results of the same method.

    A setting that differs between some cells of one key, such as the scope of a criterion in two parts of a sweep, is
    part of the label of all cells that have it.

    Parameters
    ----------
    cells : sequence of CellResult
        Cells with the ``settings`` that decide their results: nested tables of plain values.

    Returns
    -------
    list of str
        One label a cell, such as ``ERK`` or ``budget 100, radius 2``; empty where nothing differs.
    """
    first: dict[Hashable, CellResult] = {}
    differing: dict[str, None] = {}
    for key, cell in zip(keys, cells, strict=True):
        other = first.setdefault(key, cell)
        if cell.settings != other.settings:
            one, own = _texts(other), _texts(cell)
            differing |= dict.fromkeys(name for name in one | own if one.get(name) != own.get(name))
    if not differing:
        return [""] * len(cells)
    settings = map(_texts, cells)
    labels = [[_label(name, own[name]) for name in differing if name in own] for own in settings]
    return [", ".join(filter(None, own)) for own in labels]


def _texts(cell: CellResult) -> dict[str, str]:
    """Settings of a cell as texts, but for those that differ between seeds."""
    return {
        name: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in cell.flat_settings.items()
        if name.rpartition(".")[2] not in _OF_A_SEED
    }


def _label(name: str, value: str) -> str:
    own_name = name.rpartition(".")[2]
    if own_name in _WORDS:
        return _WORDS[own_name].get(value, value)
    if (own_name, value) == ("distill", "0.0"):  # as in sweeps that do not compare distillations
        return ""
    return f"{own_name.replace('_', ' ')} {value}"
