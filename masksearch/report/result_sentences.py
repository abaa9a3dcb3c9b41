"""Sentences on the best method at each sparsity: how much smaller and faster its networks are, at what test metric."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from masksearch.analysis import Estimate, SummaryRow
from masksearch.analysis.seed_groups import name_of
from masksearch.report.tables.summary_tables import COSTS, metric_of
from masksearch.searchers import SEARCHERS
from masksearch.utils.number_text import number_text, percent


def best_rows(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """Return results of the method with the best validation metric at each sparsity.

    If that is a supermask, the best of the other methods is returned, too. Controls are no methods.
    """
    chosen = []
    for sparsity in sorted({row.sparsity for row in rows[1:]}):
        here = [row for row in _methods(rows, sparsity) if not math.isnan(row.validation.mean)]
        here.sort(key=lambda row: row.method in SEARCHERS)  # of equal results, a criterion's comes first
        best = max(here, key=_validation, default=None)
        others = [row for row in here if not row.learned]
        chosen += [best] if best else []
        chosen += [max(others, key=_validation)] if best and best.learned and others else []
    return chosen


def _methods(rows: Sequence[SummaryRow], sparsity: float) -> list[SummaryRow]:
    return [row for row in rows[1:] if row.sparsity == sparsity and row.control == "none"]


def _validation(row: SummaryRow) -> float:
    """Return the score of a row's validation metric: higher is better."""
    metric = row.metric
    return metric.score(metric.worst if math.isnan(row.validation.mean) else row.validation.mean)


def speech_of(row: SummaryRow) -> str:
    """Return a sentence that compares a pruned network's metric, parameters, MACs and speed with the dense one's."""
    fewer = f"{1 / row.macs.mean:.1f}" if row.macs.mean else "infinitely many"
    speed = f"measured {row.speedup.plain('.2f')} times as fast"
    if row.granularity in ("weight", "nm"):  # what is measured is noise around 1
        speed = "as fast as before: dense kernels multiply zeros, too"
    return (
        f"{_value(row)} on the test set, {_beside_dense(row)}; "
        f"{row.compression.plain('.1f')} times fewer parameters, {fewer} times fewer MACs, {speed}."
    )


def _value(row: SummaryRow) -> str:
    """The test metric with its name; an accuracy is a percentage and needs no name."""
    text = row.trained.text(row.metric.scale, row.metric.digits)
    return f"{text} %" if row.metric.is_accuracy else f"{row.metric.name} {text}"


def _beside_dense(row: SummaryRow) -> str:
    """A difference to the dense network, and whether it is more than chance: a paired interval without 0."""
    difference, metric = row.beside_dense, row.metric
    points, digits = metric.scale * difference.mean, metric.digits
    if metric.is_accuracy:
        text = f"{abs(points):.2f} points {'above' if points > 0 else 'below'} the dense network"
    else:
        text = f"{abs(points):.{digits}f} {'better' if metric.score(points) > 0 else 'worse'} than the dense network"
    if math.isnan(difference.half_width):
        return f"{text} (one seed, so without an interval)"
    half = metric.scale * difference.shown_half_width
    ends = [number_text(end, f"+.{digits}f") for end in (points - half, points + half)]
    if difference.n == 2:
        return f"{text} (two seeds, paired: {ends[0]} and {ends[1]}; too few for an interval)"
    interval = f"95 % interval over {difference.n} seeds, paired: {ends[0]} to {ends[1]}"
    return f"{text} ({'' if abs(points) > half else 'not significant; '}{interval})"


def answer_html(rows: Sequence[SummaryRow], masks: Sequence[Path | None]) -> str:
    """Return HTML for the top of the report: sentences on the dense network and on the best methods.

    Parameters
    ----------
    masks : sequence of path or None
        The file of every row's mask, of its first seed, relative to the page.
    """
    if not rows:
        return "<p>Nothing is finished yet.</p>"
    dense = rows[0]
    parts = [
        f"<p>The dense network reaches {_value(dense)} with {dense.params.plain(',.0f')} parameters and "
        f"{dense.total_macs.plain(',.0f')} MACs.</p>"
    ]
    seen = set()
    for row in best_rows(rows):
        path = masks[list(rows).index(row)]
        size = f"At most {percent(row.cap.share)} of the {COSTS[row.cap.cost]}" if row.cap else ""
        name = escape(name_of(row.method, row.learned) + f" ({row.label})" * bool(row.label))
        among = " (best method without masks learned by gradient)" if row.sparsity in seen else ""
        head = f'<span class="head">{size or f"{percent(row.sparsity)} sparse"}: <b>{name}</b>{among}</span>'
        mask = f' <span class="file">Mask: <code>{escape(str(path))}</code></span>' if path else ""
        parts.append(f"<p>{head} {escape(speech_of(row))}{mask}</p>")
        seen.add(row.sparsity)
    if seen:
        name = escape(dense.metric.name)
        parts.append(f'<p class="about">Chosen by {name} on validation examples, not on the test set.</p>')
    parts += [f"<p>{escape(sentence)}</p>" for sentence in what_steps_brought(rows)]
    if why := why_searches_trail(rows):
        parts.append(f"<p>{escape(why)}</p>")
    return "\n".join(parts)


def best_methods(rows: Sequence[SummaryRow]) -> str:
    """Return a sentence that names the method with the best validation metric at each sparsity; "" without methods."""
    texts = []
    for row in best_rows(rows):
        at = f"with at most {percent(row.cap.share)} of the {COSTS[row.cap.cost]}" if row.cap else ""
        name = name_of(row.method, row.learned) + f" ({row.label})" * bool(row.label)
        texts.append(f"{name} {at or f'at {percent(row.sparsity)} sparsity'}")
    return f"Best by validation: {', '.join(texts)}." if texts else ""


def what_steps_brought(rows: Sequence[SummaryRow]) -> list[str]:
    """Return sentences on how repair, search and retraining changed the metric; [] if no network was repaired.

    The best search and the best criterion by validation are compared at each sparsity, in pairs by seed.
    """
    repairs, searches, trainings = [], [], []
    for sparsity in sorted({row.sparsity for row in rows[1:]}):
        here = [row for row in _methods(rows, sparsity) if row.masked.n and not row.learned]
        search = max((row for row in here if row.method in SEARCHERS), key=_validation, default=None)
        criterion = max((row for row in here if row.method not in SEARCHERS), key=_validation, default=None)
        names = Counter(row.method for row in here)  # a label where rows share a name
        best = {
            name_of(row.method) + f" ({row.label})" * (names[row.method] > 1): row
            for row in (search, criterion)
            if row is not None
        }
        if not best:
            continue
        at = f"at {percent(sparsity)} sparsity"
        repairs.append(f"{at} {_changes(best, 'masked', 'untrained')}")
        trainings.append(f"{at} {_changes(best, 'untrained', 'trained')}")
        if search is not None and criterion is not None:
            searches.append(f"{at} by {_lead(search, criterion, 0)} ({' minus '.join(best)})")
            trainings[-1] += f"; then they differ by {_lead(search, criterion, 1)}"
    steps = {
        f"Repair changes the {metric_of(rows).name}": repairs,
        "After repair, the best search differs from the best criterion": searches,
        f"Retraining changes the {metric_of(rows).name}": trainings,
    }
    return [f"{step} {'; '.join(texts)}." for step, texts in steps.items() if texts]


def _changes(rows: Mapping[str, SummaryRow], before: str, after: str) -> str:
    """The mean metric at two steps, by the names of rows."""
    texts = []
    for name, row in rows.items():
        first, last = (getattr(row, step).plain(f".{row.metric.digits}f", row.metric.scale) for step in (before, after))
        texts.append(f"from {first} to {last} with {name}")
    return " and ".join(texts)


def _lead(search: SummaryRow, criterion: SummaryRow, step: int) -> str:
    """The difference of the metric before (step 0) or after (step 1) training, over the seeds that both rows have."""
    seeds = sorted(search.by_seed.keys() & criterion.by_seed.keys())
    pairs = ((search.by_seed[seed][step], criterion.by_seed[seed][step]) for seed in seeds)
    metric = search.metric
    return Estimate.of_differences(pairs).text(metric.scale, metric.digits, "+") + " points" * metric.is_accuracy


def why_searches_trail(rows: Sequence[SummaryRow]) -> str:
    """Return a sentence that explains why a criterion beats all searches; "" if none does, or no reason is known.

    The sentence is about the highest sparsity with a known reason.
    """
    for sparsity in sorted({row.sparsity for row in rows[1:]}, reverse=True):
        here = [row for row in _methods(rows, sparsity) if not row.learned]
        searches = [row for row in here if row.method in SEARCHERS]
        best, search = max(here, key=_validation, default=None), max(searches, key=_validation, default=None)
        if best is None or search is None or best in searches:
            continue
        first, other = name_of(best.method), name_of(search.method)
        if search.find_at == "0" and best.find_at not in ("0", "early"):
            return (
                f"{first} leads the searches because it ranks trained weights (found at {best.find_at}), while the "
                "searches score masks of untrained weights (found at 0): --find-at end gives searches the trained "
                "weights."
            )
        # The steps of a repair have sentences of their own.
        if search.find_at == best.find_at == "end" and search.rounds and best.rounds and not search.masked.n:
            own, theirs = (row.rounds[-1].moments["found"].accuracy for row in (search, best))
            behind = search.metric.score(search.trained.mean) < search.metric.score(best.trained.mean)
            if behind and search.metric.score(own.mean) > search.metric.score(theirs.mean):
                one, two = (value.plain(f".{search.metric.digits}f", search.metric.scale) for value in (own, theirs))
                return (
                    f"{other} leads with the weights at which masks were found ({search.metric.name} {one}, {first} "
                    f"{two}), {first} leads after retraining: the search scores masks without retraining them; "
                    "--objective short_training scores them after some steps of training."
                )
    return ""
