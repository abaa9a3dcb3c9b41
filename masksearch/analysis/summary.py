"""Summaries over seeds: mean and 95 % interval of every figure, a row per method, sparsity and moment."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

__all__ = ["Estimate", "SummaryRow", "best_rates", "summarise"]


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
    variant: str  # what tells it from other rows of the method: schedule, rounds, rewinding, control
    sparsity: float
    find_at: str  # "early" where the schedule finds it
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


def summarise(cells: Iterable[Mapping[str, Any]], dense: Iterable[Mapping[str, Any]] = ()) -> list[SummaryRow]:
    """Summary rows of the metrics of finished cells: the dense network first, then in order of sparsity and cells.

    Where learning rates of retraining are compared, rows are those of each sparsity's best one (:func:`best_rates`).

    Parameters
    ----------
    dense : iterable of mapping
        Metrics of the dense networks, with their seeds; of several for a seed the first counts.
    """
    cells = best_rates(list(cells))
    variants = _variants(cells)
    groups: dict[tuple[str, str, float, str], list[Mapping[str, Any]]] = {}
    for cell, variant in zip(cells, variants, strict=True):
        find_at = "early" if "early_bird" in cell else cell["find_at"]
        groups.setdefault((cell["method"], variant, cell["sparsity"], find_at), []).append(cell)
    rows = [_row(*key, group) for key, group in groups.items()]
    rows.sort(key=lambda row: row.sparsity)  # stable: within a sparsity, in the order of the sweep
    seeds: dict[int, Mapping[str, Any]] = {}
    for seed, metrics in [*((one["seed"], one) for one in dense), *((cell["seed"], cell["dense"]) for cell in cells)]:
        seeds.setdefault(seed, metrics)
    if not seeds:
        return []
    nothing = Estimate.of([])
    whole = next(iter(seeds.values()))["cost"]
    first = SummaryRow(
        "dense",
        "",
        0.0,
        "–",
        untrained=nothing,
        trained=Estimate.of(metrics["test_accuracy"] for metrics in seeds.values()),
        accuracy_gap=nothing,
        params=Estimate.of([whole["nonzero_params"]]),
        macs=Estimate.of([1.0]),
        speedup=Estimate.of([1.0]),
        scorings=nothing,
        search_seconds=nothing,
        retrain_seconds=nothing,
        emptied=0,
    )
    return [first, *rows]


def best_rates(cells: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cells at the learning rate of retraining that is best for their sparsity, the same for all methods.

    Best is the highest validation accuracy after the last epoch, in the mean over everything at that sparsity. A cell
    that ended without one counts as 0.
    """
    scores: dict[tuple[float, float], list[float]] = {}
    for cell in cells:
        if cell.get("retrain_lr") is not None:
            value = cell["trained"]["val_accuracy"] or 0.0
            scores.setdefault((cell["sparsity"], cell["retrain_lr"]), []).append(value)
    best: dict[float, tuple[float, float]] = {}  # sparsity -> (mean, rate)
    for (sparsity, rate), values in scores.items():
        mean = sum(values) / len(values)
        if sparsity not in best or mean > best[sparsity][0]:
            best[sparsity] = (mean, rate)
    return [cell for cell in cells if cell.get("retrain_lr") is None or cell["retrain_lr"] == best[cell["sparsity"]][1]]


def _variants(cells: list[Mapping[str, Any]]) -> list[str]:
    """What each cell is called beside its method: only what differs between the cells, and every control."""
    several = {
        name: len({cell[name] for cell in cells}) > 1
        for name in ("granularity", "schedule", "n_rounds", "rewind_to", "retrain_lr")
    }
    texts = []
    for cell in cells:
        words = []
        if several["granularity"]:
            words.append(f"{cell['granularity']}s")
        if several["schedule"]:
            words.append(cell["schedule"].replace("_", " "))
        if several["n_rounds"] and cell["n_rounds"] > 1:
            words.append(f"{cell['n_rounds']} rounds")
        if several["rewind_to"]:
            words.append({"none": "goes on", "lr": "rate rewound"}.get(cell["rewind_to"], f"from {cell['rewind_to']}"))
        if several["retrain_lr"] and cell["retrain_lr"] is not None:
            words.append(f"lr {cell['retrain_lr']:g}")
        if cell["control"] != "none":
            words.append({"shuffle": "shuffled", "reinit": "reinitialised"}[cell["control"]])
        texts.append(", ".join(words))
    return texts


def _row(method: str, variant: str, sparsity: float, find_at: str, cells: list[Mapping[str, Any]]) -> SummaryRow:
    def over_seeds(group: str, name: str) -> Estimate:
        return Estimate.of(cell[group][name] for cell in cells)

    return SummaryRow(
        method,
        variant,
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
