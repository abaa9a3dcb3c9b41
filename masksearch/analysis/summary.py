"""Summaries over seeds: mean and 95 % interval of every figure, a row per method, sparsity and moment."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

__all__ = ["Estimate", "SummaryRow", "summarise"]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its uncertainty."""

    mean: float
    half_width: float  # of the 95 % interval (Student's t); NaN with fewer than two values
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Estimate":
        """The estimate from one value a seed; a missing one makes the mean NaN, so that it can't go unseen."""
        data = np.array([math.nan if value is None else value for value in values], dtype=float)
        n = len(data)
        if n < 2:
            return cls(float(data.mean()) if n else math.nan, math.nan, n)
        return cls(float(data.mean()), float(stdtrit(n - 1, 0.975) * data.std(ddof=1) / math.sqrt(n)), n)

    def text(self, scale: float = 1.0, digits: int = 2, sign: str = "") -> str:
        """``mean ± half width``, both times ``scale``; only the mean if there is no interval, – if there is no mean."""
        if math.isnan(self.mean):
            return "–"
        mean = f"{scale * self.mean:{sign}.{digits}f}"
        return mean if math.isnan(self.half_width) else f"{mean} ± {scale * self.half_width:.{digits}f}"


@dataclass(frozen=True)
class SummaryRow:
    """One method at one sparsity, over all seeds; or the dense network (``sparsity`` 0)."""

    method: str
    sparsity: float
    find_at: str
    untrained: Estimate  # test accuracy under the mask at the rewound weights, in [0, 1]
    trained: Estimate  # test accuracy after the last epoch of retraining
    accuracy_gap: Estimate  # accuracy on the search images minus accuracy on the rest of val
    params: Estimate  # non-zero ones
    macs: Estimate  # effective ones, as a share of the dense network's
    speedup: Estimate  # latency of the dense network / of this one, batches of 64, measured in turn
    scorings: Estimate
    search_seconds: Estimate
    retrain_seconds: Estimate
    emptied: int  # seeds whose mask empties a layer


def summarise(cells: Iterable[Mapping[str, Any]]) -> list[SummaryRow]:
    """Summary rows of the metrics of finished cells: the dense network first, then in order of sparsity and cells."""
    groups: dict[tuple[str, float, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["method"], cell["sparsity"], cell["find_at"]), []).append(cell)
    rows = [_row(*key, group) for key, group in groups.items()]
    rows.sort(key=lambda row: row.sparsity)  # stable: within a sparsity, in the order of the sweep
    seeds = {cell["seed"]: cell["dense"]["test_accuracy"] for group in groups.values() for cell in group}
    nothing = Estimate.of([])
    if not rows:
        return []
    whole = next(iter(groups.values()))[0]["dense"]["cost"]
    dense = SummaryRow(
        "dense",
        0.0,
        "–",
        untrained=nothing,
        trained=Estimate.of(seeds.values()),
        accuracy_gap=nothing,
        params=Estimate.of([whole["nonzero_params"]]),
        macs=Estimate.of([1.0]),
        speedup=Estimate.of([1.0]),
        scorings=nothing,
        search_seconds=nothing,
        retrain_seconds=nothing,
        emptied=0,
    )
    return [dense, *rows]


def _row(method: str, sparsity: float, find_at: str, cells: list[Mapping[str, Any]]) -> SummaryRow:
    def over_seeds(group: str, name: str) -> Estimate:
        return Estimate.of(cell[group][name] for cell in cells)

    return SummaryRow(
        method,
        sparsity,
        find_at,
        untrained=over_seeds("untrained", "test_accuracy"),
        trained=over_seeds("trained", "test_accuracy"),
        accuracy_gap=over_seeds("score", "accuracy_gap"),
        params=over_seeds("cost", "nonzero_params"),
        macs=Estimate.of(cell["cost"]["effective_macs"] / cell["dense"]["cost"]["macs"] for cell in cells),
        speedup=Estimate.of(
            cell["seconds"]["latency_dense_batch_64"] / cell["seconds"]["latency_ticket_batch_64"] for cell in cells
        ),
        scorings=over_seeds("score", "scorings"),
        search_seconds=over_seeds("seconds", "search"),
        retrain_seconds=over_seeds("seconds", "retrain"),
        emptied=sum(bool(cell["mask"]["empty_layers"]) for cell in cells),
    )
