"""What a reader wants to know first: which mask, how much smaller and faster, and what it costs in accuracy."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from masksearch.analysis import Estimate, SummaryRow
from masksearch.analysis.seed_groups import name_of
from masksearch.report.figures.drawing import percent
from masksearch.report.tables.summary_tables import COSTS
from masksearch.searchers import SEARCHERS

__all__ = ["answer_html", "best_rows", "speech_of", "why_searches_trail"]


def best_rows(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """The best method of every sparsity by validation, and after one that gradients have made the best of the others.

    Controls are no methods.
    """
    candidates = [row for row in rows[1:] if row.control == "none" and row.validation.mean == row.validation.mean]
    chosen = []
    for sparsity in sorted({row.sparsity for row in candidates}):
        here = [row for row in candidates if row.sparsity == sparsity]
        best = max(here, key=lambda row: row.validation.mean)
        chosen.append(best)
        others = [row for row in here if not row.learned]
        if best.learned and others:
            chosen.append(max(others, key=lambda row: row.validation.mean))
    return chosen


def speech_of(row: SummaryRow) -> str:
    """What a row says beside the dense network, in one sentence."""
    return (
        f"{row.trained.text(100)} % on the test set, {_beside_dense(row.beside_dense)}; "
        f"{row.compression.plain('.1f')} times fewer parameters, {_fewer(row)} times fewer MACs, {_speed(row)}."
    )


def _beside_dense(difference: Estimate) -> str:
    """A difference to the dense network, and whether it is more than chance: a paired interval without 0."""
    points = 100 * difference.mean
    text = f"{abs(points):.2f} points {'above' if points > 0 else 'below'} the dense network"
    if math.isnan(difference.half_width):
        return f"{text} (one seed, so without an interval)"
    half = 100 * difference.half_width
    interval = f"95 % interval over {difference.n} seeds, paired: {points - half:+.2f} to {points + half:+.2f}"
    return f"{text} ({'' if abs(points) > half else 'not significant; '}{interval})"


def _speed(row: SummaryRow) -> str:
    if row.granularity == "weight":  # what is measured is noise around 1
        return "as fast as before: dense kernels multiply zeros, too"
    return f"measured {row.speedup.plain('.2f')} times as fast"


def answer_html(rows: Sequence[SummaryRow], masks: Sequence[Path | None]) -> str:
    """The answer, for the top of the page.

    Parameters
    ----------
    masks : sequence of path or None
        The file of every row's mask, of its first seed, relative to the page.
    """
    if not rows:
        return "<p>Nothing is finished yet.</p>"
    dense = rows[0]
    parts = [
        f"<p>The dense network reaches {dense.trained.text(100)} % with {dense.params.plain(',.0f')} parameters and "
        f"{dense.total_macs.plain(',.0f')} MACs.</p>"
    ]
    for row in best_rows(rows):
        path = masks[list(rows).index(row)]
        among = " of those that aren't learned by gradient" if _follows(row, rows) else ""
        mask = f' <span class="file">Mask: <code>{escape(str(path))}</code></span>' if path else ""
        parts.append(
            f'<p><span class="head">{_size(row)}: <b>{_name(row)}</b>{among}</span> {escape(speech_of(row))}{mask}</p>'
        )
    if len(parts) > 1:
        parts.append('<p class="about">Chosen by accuracy on validation examples; the test set chooses nothing.</p>')
    if why := why_searches_trail(rows):
        parts.append(f"<p>{escape(why)}</p>")
    return "\n".join(parts)


def why_searches_trail(rows: Sequence[SummaryRow]) -> str:
    """One sentence where criteria of trained weights beat all searches of untrained weights; else empty."""
    for sparsity in sorted({row.sparsity for row in rows[1:]}, reverse=True):
        here = [row for row in rows[1:] if row.sparsity == sparsity and row.control == "none" and not row.learned]
        searches = [row for row in here if row.method in SEARCHERS]
        best = max(here, key=lambda row: _or_zero(row.validation), default=None)
        if best is None or not searches or best in searches:
            continue
        search = max(searches, key=lambda row: _or_zero(row.validation))
        if search.find_at == "0" and best.find_at not in ("0", "early"):
            return (
                f"{name_of(best.method, False)} leads the searches because it ranks trained weights (found at "
                f"{best.find_at}), while the searches score masks of untrained weights (found at 0): --find-at end "
                "gives searches the trained weights."
            )
    return ""


def _or_zero(figure: Estimate) -> float:
    return 0.0 if math.isnan(figure.mean) else figure.mean


def _follows(row: SummaryRow, rows: Sequence[SummaryRow]) -> bool:
    chosen = [one for one in best_rows(rows) if one.sparsity == row.sparsity]
    return chosen[0] is not row


def _size(row: SummaryRow) -> str:
    if row.cap is None:
        return f"{percent(row.sparsity)} sparse"
    return f"At most {percent(row.cap.share)} of the {COSTS[row.cap.cost]}"


def _name(row: SummaryRow) -> str:
    return escape(name_of(row.method, row.learned) + (f" ({row.label})" if row.label else ""))


def _fewer(row: SummaryRow) -> str:
    return f"{1 / row.macs.mean:.1f}" if row.macs.mean else "infinitely many"
