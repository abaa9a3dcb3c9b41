"""Summaries over seeds: mean and 95 % interval of every figure, a row per method, variant, sparsity and moment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from masksearch.analysis.groups import Group, group_cells
from masksearch.analysis.round_rows import RoundRow, dense_row, round_rows
from masksearch.analysis.statistics import Estimate
from masksearch.experiment.results import Cap, CellResult, DenseResult

__all__ = ["SummaryRow", "summarise"]


_NOTHING = Estimate.of([])


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One method at one sparsity, over all seeds; or the dense network (``sparsity`` 0). Figures may be missing."""

    method: str
    variant: str = ""  # schedule, rounds, rewinding and control, where rows of the method differ in them
    sparsity: float
    find_at: str  # "early" where the schedule finds it
    label: str = ""  # the variant, and the moment that masks were found at where rows of the variant differ in it
    control: str = "none"  # which control it is; "none" if it is no control
    learned: bool = False  # by gradient: a supermask
    granularity: str = ""  # weight or filter; "" of the dense network

    untrained: Estimate = _NOTHING  # test accuracy under the mask at the rewound weights, in [0, 1]
    trained: Estimate  # test accuracy after the last epoch of retraining, in [0, 1]
    beside_dense: Estimate = _NOTHING  # that, minus the accuracy of the network of the same seed in the dense row
    validation: Estimate = _NOTHING  # accuracy after the last epoch, or on the rest without training; diverged: 0
    accuracy_gap: Estimate = _NOTHING  # accuracy on the search examples minus accuracy on the rest of val

    params: Estimate  # non-zero ones
    compression: Estimate  # parameters of the dense network / non-zero ones
    macs: Estimate  # effective ones, as a share of the dense network's
    total_macs: Estimate  # effective ones
    speedup: Estimate  # latency of the dense network / latency of this one, batches of 64, measured in turn
    latency: Estimate  # seconds of a batch of 64
    cap: Cap | None = None
    capped: Estimate = _NOTHING  # the capped cost, as a share of the dense network's; a latency as measured afterwards

    scorings: Estimate = _NOTHING
    foreign_trials: Estimate = _NOTHING  # scorings of other searches, from a shared study
    search_seconds: Estimate = _NOTHING
    retrain_seconds: Estimate = _NOTHING
    test_seconds: Estimate = _NOTHING  # of one pass over the test set

    emptied: int = 0  # seeds whose mask empties a layer
    constant: int = 0  # seeds whose trained network has outputs that are equal for all examples
    kept_criteria: int = 0  # seeds whose search found nothing better than the mask of a criterion, both scored again
    diverged: int = 0  # seeds whose retraining ended early, because its loss was not finite

    rounds: tuple[RoundRow, ...]  # of pruning and training, one after the other


def summarise(cells: Iterable[CellResult], dense: Iterable[DenseResult] = ()) -> list[SummaryRow]:
    """Summary rows of finished cells: the dense network first, then in order of sparsity and cells.

    Where learning rates of retraining are compared, rows are those of each sparsity's best one
    (:func:`masksearch.analysis.groups.best_rates`).

    Parameters
    ----------
    dense : iterable of DenseResult
        Of several dense networks of one seed the first counts.
    """
    cells = list(cells)
    networks: dict[int, DenseResult] = {}
    for network in [*dense, *(cell.dense for cell in cells)]:
        networks.setdefault(network.seed, network)
    if not networks:
        return []
    rows = [_row(group, networks) for group in group_cells(cells)]
    return [_dense(list(networks.values()), cells), *rows]


def _dense(networks: list[DenseResult], cells: list[CellResult]) -> SummaryRow:
    whole = networks[0].cost
    latencies = [cell.latency.dense_batch_64 for cell in cells]
    return SummaryRow(
        method="dense",
        sparsity=0.0,
        find_at="–",
        trained=Estimate.of(network.test_accuracy for network in networks),
        params=Estimate.of([whole.nonzero_params]),
        compression=Estimate.of([1.0]),
        macs=Estimate.of([1.0]),
        total_macs=Estimate.of([whole.macs]),
        speedup=Estimate.of([1.0]),
        latency=Estimate.of([sum(latencies) / len(latencies)] if latencies else []),
        rounds=(dense_row(networks),),
    )


def _row(group: Group, networks: Mapping[int, DenseResult]) -> SummaryRow:
    cells = group.cells
    cap = cells[0].cap
    return SummaryRow(
        method=group.method,
        variant=group.variant,
        sparsity=group.sparsity,
        find_at=group.find_at,
        label=group.label,
        control=group.control,
        learned=group.learned,
        granularity=cells[0].granularity,
        untrained=Estimate.of(cell.untrained.test_accuracy for cell in cells),
        trained=Estimate.of(cell.trained.test_accuracy for cell in cells),
        beside_dense=Estimate.of_differences(
            (cell.trained.test_accuracy, networks[cell.seed].test_accuracy) for cell in cells
        ),
        validation=Estimate.of(map(_validation, cells)),
        accuracy_gap=Estimate.of(cell.score.accuracy_gap for cell in cells),
        params=Estimate.of(cell.cost.nonzero_params for cell in cells),
        compression=Estimate.of(cell.dense.cost.nonzero_params / cell.cost.nonzero_params for cell in cells),
        macs=Estimate.of(cell.cost.effective_macs / cell.dense.cost.macs for cell in cells),
        total_macs=Estimate.of(cell.cost.effective_macs for cell in cells),
        speedup=Estimate.of(cell.speedup for cell in cells),
        latency=Estimate.of(cell.latency.ticket_batch_64 for cell in cells),
        cap=cap,
        capped=Estimate.of([] if cap is None else [cell.cost_share(cap.cost) for cell in cells]),
        scorings=Estimate.of(cell.scorings for cell in cells),
        foreign_trials=Estimate.of(cell.foreign_trials for cell in cells),
        search_seconds=Estimate.of(cell.search_seconds for cell in cells),
        retrain_seconds=Estimate.of(cell.retrain_seconds for cell in cells),
        test_seconds=Estimate.of(cell.test_seconds for cell in cells),
        emptied=sum(bool(cell.mask.empty_layers) for cell in cells),
        constant=sum(bool(cell.trained.constant_outputs) for cell in cells),
        kept_criteria=sum(bool(cell.kept_criteria) for cell in cells),
        diverged=sum(cell.trained.diverged for cell in cells),
        rounds=round_rows(cells),
    )


def _validation(cell: CellResult) -> float | None:
    if cell.trained.diverged:
        return 0.0
    accuracy = cell.trained.val_accuracy
    return cell.trained.rest_accuracy if accuracy is None else accuracy
