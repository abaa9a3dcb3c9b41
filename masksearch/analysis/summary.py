"""Summaries over seeds: mean and 95 % interval of every figure, a row per method, variant, sparsity and moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from masksearch.analysis.groups import Group, group_cells
from masksearch.analysis.round_rows import RoundRow, dense_row, round_rows
from masksearch.analysis.statistics import Estimate
from masksearch.core.protocol import FOREIGN_TRIALS

__all__ = ["SummaryRow", "cost_share", "summarise"]


@dataclass(frozen=True)
class SummaryRow:
    """One method at one sparsity, over all seeds; or the dense network (``sparsity`` 0)."""

    method: str
    variant: str  # what tells it from other rows of the method: schedule, rounds, rewinding, control
    sparsity: float
    find_at: str  # "early" where the schedule finds it
    way: str  # the variant, and the moment its masks were found at if that tells it from other rows
    control: str  # which control it is; "none" if it is no control
    learned: bool  # by gradient: a supermask
    granularity: str  # weight or filter; "" of the dense network
    untrained: Estimate  # test accuracy under the mask at the rewound weights, in [0, 1]
    trained: Estimate  # test accuracy after the last epoch of retraining
    beside_dense: Estimate  # that, minus the test accuracy of the same seed's network in the dense row
    validation: Estimate  # accuracy after the last epoch; on what no search saw where none was trained; diverged: 0
    accuracy_gap: Estimate  # accuracy on the search images minus accuracy on the rest of val
    params: Estimate  # non-zero ones
    compression: Estimate  # parameters of the dense network / non-zero ones
    macs: Estimate  # effective ones, as a share of the dense network's
    total_macs: Estimate  # effective ones
    speedup: Estimate  # latency of the dense network / of this one, batches of 64, measured in turn
    latency: Estimate  # seconds of a batch of 64
    test_seconds: Estimate  # of one pass over the test images
    scorings: Estimate
    foreign_trials: Estimate  # scorings of other searches, from a shared study
    search_seconds: Estimate
    retrain_seconds: Estimate
    emptied: int  # seeds whose mask empties a layer
    constant: int  # seeds whose trained network has outputs that are the same for all images
    kept_criteria: int  # seeds whose search found nothing better than a criterion's mask, when both were scored again
    diverged: int  # seeds whose retraining ended early, because its loss was no number
    rounds: tuple[RoundRow, ...]  # of pruning and training, one after the other
    cap: tuple[str, float] | None  # the cost that masks have a cap on, and the cap as a share of the dense network's
    capped: Estimate  # that cost, as such a share; a latency as measured for the results


def summarise(cells: Iterable[Mapping[str, Any]], dense: Iterable[Mapping[str, Any]] = ()) -> list[SummaryRow]:
    """Summary rows of the metrics of finished cells: the dense network first, then in order of sparsity and cells.

    Where learning rates of retraining are compared, rows are those of each sparsity's best one
    (:func:`masksearch.analysis.groups.best_rates`).

    Parameters
    ----------
    dense : iterable of mapping
        Metrics of the dense networks, with their seeds; of several for a seed the first counts.
    """
    cells = list(cells)
    seeds: dict[int, Mapping[str, Any]] = {}
    for seed, metrics in [*((one["seed"], one) for one in dense), *((cell["seed"], cell["dense"]) for cell in cells)]:
        seeds.setdefault(seed, metrics)
    if not seeds:
        return []
    rows = [_row(group, seeds) for group in group_cells(cells)]
    return [_dense(list(seeds.values()), cells), *rows]


def _dense(networks: list[Mapping[str, Any]], cells: list[Mapping[str, Any]]) -> SummaryRow:
    nothing = Estimate.of([])
    whole = networks[0]["cost"]
    latencies = [cell["seconds"]["latency_dense_batch_64"] for cell in cells]
    return SummaryRow(
        "dense",
        "",
        0.0,
        "–",
        "",
        "none",
        False,
        "",
        untrained=nothing,
        trained=Estimate.of(metrics["test_accuracy"] for metrics in networks),
        beside_dense=nothing,
        validation=nothing,
        accuracy_gap=nothing,
        params=Estimate.of([whole["nonzero_params"]]),
        compression=Estimate.of([1.0]),
        macs=Estimate.of([1.0]),
        total_macs=Estimate.of([whole["macs"]]),
        speedup=Estimate.of([1.0]),
        latency=Estimate.of([sum(latencies) / len(latencies)] if latencies else []),
        test_seconds=nothing,
        scorings=nothing,
        foreign_trials=nothing,
        search_seconds=nothing,
        retrain_seconds=nothing,
        emptied=0,
        constant=0,
        kept_criteria=0,
        diverged=0,
        rounds=(dense_row(networks),),
        cap=None,
        capped=nothing,
    )


def _row(group: Group, networks: Mapping[int, Mapping[str, Any]]) -> SummaryRow:
    cells, cap = group.cells, group.cells[0].get("cap")

    def over_seeds(part: str, name: str) -> Estimate:
        return Estimate.of(cell[part][name] for cell in cells)

    return SummaryRow(
        group.method,
        group.variant,
        group.sparsity,
        group.find_at,
        group.way,
        group.control,
        group.learned,
        cells[0]["granularity"],
        untrained=over_seeds("untrained", "test_accuracy"),
        trained=over_seeds("trained", "test_accuracy"),
        beside_dense=Estimate.of(
            cell["trained"]["test_accuracy"] - networks[cell["seed"]]["test_accuracy"] for cell in cells
        ),
        validation=Estimate.of(map(_validation, cells)),
        accuracy_gap=over_seeds("score", "accuracy_gap"),
        params=over_seeds("cost", "nonzero_params"),
        compression=Estimate.of(
            cell["dense"]["cost"]["nonzero_params"] / cell["cost"]["nonzero_params"] for cell in cells
        ),
        macs=Estimate.of(cell["cost"]["effective_macs"] / cell["dense"]["cost"]["macs"] for cell in cells),
        total_macs=over_seeds("cost", "effective_macs"),
        speedup=Estimate.of(
            cell["seconds"]["latency_dense_batch_64"] / cell["seconds"]["latency_ticket_batch_64"] for cell in cells
        ),
        latency=over_seeds("seconds", "latency_ticket_batch_64"),
        test_seconds=over_seeds("seconds", "test"),
        scorings=over_seeds("score", "scorings"),
        foreign_trials=Estimate.of(cell["score"].get(FOREIGN_TRIALS, 0) for cell in cells),
        search_seconds=over_seeds("seconds", "search"),
        retrain_seconds=over_seeds("seconds", "retrain"),
        emptied=sum(bool(cell["mask"]["empty_layers"]) for cell in cells),
        constant=sum(bool(cell["trained"]["constant_outputs"]) for cell in cells),
        kept_criteria=sum(bool(kept_criteria(cell)) for cell in cells),
        diverged=sum(cell["trained"]["diverged"] for cell in cells),
        rounds=round_rows(cells),
        cap=None if cap is None else (cap["cost"], cap["share"]),
        capped=Estimate.of([] if cap is None else [cost_share(cell, cap["cost"]) for cell in cells]),
    )


def kept_criteria(cell: Mapping[str, Any]) -> list[str]:
    """The criteria whose masks, scored again, were better than what a cell's search had found, round by round."""
    return [number["score"]["kept"] for number in cell["rounds"] if "kept" in number["score"]]


def cost_share(cell: Mapping[str, Any], cost: str) -> float:
    """What a cell's network has of the dense one's ``macs``, ``params`` or ``latency``."""
    if cost == "latency":
        return cell["seconds"]["latency_ticket_batch_64"] / cell["seconds"]["latency_dense_batch_64"]
    name = {"macs": "effective_macs", "params": "params"}[cost]
    return cell["cost"][name] / cell["dense"]["cost"][cost]


def _validation(cell: Mapping[str, Any]) -> float:
    if cell["trained"]["diverged"]:
        return 0.0
    accuracy = cell["trained"]["val_accuracy"]
    return cell["trained"]["rest_accuracy"] if accuracy is None else accuracy
