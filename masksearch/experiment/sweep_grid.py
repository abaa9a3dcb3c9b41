"""The grid of a sweep: all combinations of methods, sparsities, seeds and schedules."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product

from masksearch.criteria import CRITERIA
from masksearch.experiment.cell import AUTO, Cell
from masksearch.experiment.settings.all_settings import Settings
from masksearch.experiment.settings.schedule_settings import parse_rewind
from masksearch.experiment.settings.search_settings import USUAL_START, split_method
from masksearch.schedules import SCHEDULES, Schedule
from masksearch.training.training_moment import TrainingMoment


def grid(settings: Settings) -> list[Cell]:
    """Return all runs of a sweep (cells): every method with every sparsity, seed and schedule, in order of the seeds.

    Without a ``find_at`` every method has its own moment: the end of the dense training for a criterion made for
    trained weights, the start for all others. A criterion that looks at no weights has one cell, at the start, unless
    its ticket continues from the weights of that moment. With a repair, masks are found at the end of the dense
    training, and tickets continue from there.
    """
    if settings.schedules.dense_alone:
        return []
    cells, known = [], set()
    for seed in settings.sweep.seed_range:
        for schedule, rounds, moment, rewind in _plans(settings):
            for (weight, temperature), lr, sparsity, method in product(
                _distillations(settings),
                settings.schedules.retrain_lr or (None,),
                settings.sweep.sparsities,
                settings.sweep.methods,
            ):
                name, pinned = split_method(method)
                find_at = _moment(name, SCHEDULES[schedule], rewind, pinned, moment)
                place = (name, sparsity, find_at, seed, schedule, rounds, rewind, lr)
                cell = replace(Cell(settings, *place), distill=weight, distill_temperature=temperature)
                cell = _with_start(cell, method)
                known_as = (*place, weight, temperature, cell.settings.search.warm_start)
                if known_as not in known:
                    known.add(known_as)
                    cells += [cell, *(replace(cell, control=control) for control in settings.schedules.control)]
    return cells


def with_distinct_labels(cells: Iterable[Cell]) -> list[Cell]:
    """Return the runs of a sweep; runs of equal names get labels that list the settings in which they differ."""
    cells = list(cells)
    count = Counter(cell.name for cell in cells)
    facts = [_facts(cell) if count[cell.name] > 1 else {} for cell in cells]
    named: dict[str, list[dict[str, object]]] = {}
    for cell, own in zip(cells, facts, strict=True):
        named.setdefault(cell.name, []).append(own)
    return [replace(cell, differing=_differing(own, named[cell.name])) for cell, own in zip(cells, facts, strict=True)]


def _facts(cell: Cell) -> dict[str, object]:
    """The settings that decide a cell's result, by ``group.name``."""
    groups: dict[str, dict[str, object]] = {**cell.deciding_settings(), "": {"hold": cell.settings.hold}}
    return {f"{group}.{name}": value for group, own in groups.items() for name, value in own.items()}


def _differing(own: dict[str, object], others: Sequence[dict[str, object]]) -> str:
    names = [name for name in own if any(other.get(name) != own[name] for other in others)]
    return ", ".join(f"{name.rpartition('.')[2]} {own[name]}" for name in names)


def _plans(settings: Settings) -> Iterator[tuple[str, int, str, str]]:
    """Schedule, rounds, find-at ("" for the method's own) and rewind-to of the cells."""
    asked = settings.schedules
    for schedule in asked.schedule:
        row = SCHEDULES[schedule]
        rounds = (asked.rounds or (row.rounds,)) if row.rounds > 1 else (1,)
        found = "end" if settings.repairs and not row.has_own_moment else ""
        rewound = row.rewind_to if asked.reconstruct == "off" else "none"
        for combination in product(rounds, settings.sweep.find_at or (found,), asked.rewind_to or (rewound,)):
            number, moment, rewind = combination
            yield schedule, number, moment, str(parse_rewind(rewind))


def _distillations(settings: Settings) -> list[tuple[float | None, float | None]]:
    """Weights and temperatures of distillation to compare; None: as in the settings of training, or no temperature."""
    weights, temperatures = settings.schedules.retrain_distill or (None,), settings.schedules.retrain_temperature
    pairs = product(weights, temperatures or (None,))
    usual = settings.train.distill
    return list(dict.fromkeys((w, t if (usual if w is None else w) else None) for w, t in pairs))


def _with_start(cell: Cell, method: str) -> Cell:
    """Return the cell with the criterion, or None, that ``warm_start`` = ``auto`` stands for in its settings.

    These settings name the cell's method alone: fronts of other methods of the sweep start from no single mask.
    """
    settings = cell.settings
    if not cell.searches or settings.search.warm_start != USUAL_START:
        return cell
    search = replace(settings.search, warm_start=cell.usual_start)
    return replace(cell, settings=replace(settings, sweep=replace(settings.sweep, methods=(method,)), search=search))


def _moment(method: str, row: Schedule, rewind: str, pinned: str, asked: str) -> str:
    """Return the moment at which a method's mask is found: ``pinned`` if given, else ``asked``, else the usual one."""
    if row.detects:
        return AUTO
    if row.changes == "ramp":
        return "0"  # its ranking begins with the training
    if pinned:
        return str(TrainingMoment.parse(pinned))
    if method in CRITERIA and CRITERIA[method].weights == "none" and rewind not in ("none", "lr"):
        return "0"  # at any moment it finds the same
    if asked:
        return str(TrainingMoment.parse(asked))
    return "end" if method in CRITERIA and CRITERIA[method].weights == "trained" and not row.changes else "0"
