"""Summary rows: means and 95 % intervals over seeds of all results, by method and sparsity."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from masksearch.analysis.seed_groups import Group, group_cells
from masksearch.analysis.statistics import Estimate
from masksearch.experiment.cell_results import Cap, CellResult, DenseResult, find_setting
from masksearch.experiment.result_parts import Accuracy, Metric, RoundResult

_NOTHING, _ACCURACY = Estimate.of([]), Metric()


MOMENTS = ("untrained", "best_dense", "found", "trained")
"""Under the round's mask: at the weights that training starts from; at the dense network's best weights by validation
("best dense"); at the weights that the mask was found at, those of the last round ("as found"); after training."""


@dataclass(frozen=True)
class Moment:
    """Mean test metric and loss over seeds of masked networks in one state of their weights, such as after training."""

    accuracy: Estimate  # the metric of the task; in classification the accuracy, in [0, 1]
    loss: Estimate

    @classmethod
    def of(cls, figures: Sequence[Accuracy]) -> "Moment":
        """Return test metric and test loss of masked networks with one method and sparsity, as means over seeds."""
        return cls(Estimate.of(one.test_accuracy for one in figures), Estimate.of(one.test_loss for one in figures))


@dataclass(frozen=True)
class RoundRow:
    """Results of one pruning round as means over seeds; round ``number`` 0 stands for the dense network."""

    number: int
    density: Estimate
    moments: Mapping[str, Moment]  # by MOMENTS; without numbers where there was nothing to look at
    best_epoch: Estimate  # by validation, counted as the learning-rate schedule counts
    metric: Metric = _ACCURACY

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts of one row of the table of pruning rounds: means over seeds; accuracies and densities in percent."""
        moments = [self.moments[name] for name in MOMENTS]
        form, scale = f".{self.metric.digits}f", self.metric.scale
        figures = [text for m in moments for text in (m.accuracy.plain(form, scale), m.loss.plain(".3f"))]
        whole = self.best_epoch.mean.is_integer()
        number = str(self.number) if self.number else "–"
        return (number, self.density.plain(".4g", 100), *figures, self.best_epoch.plain(".0f" if whole else ".1f"))


def _round_row(rounds: Sequence[RoundResult], metric: Metric) -> RoundRow:
    """Return the means of one round over cells that differ only in their seed."""
    moments = {name: Moment.of([getattr(round_, name) for round_ in rounds]) for name in MOMENTS}
    if not any(round_.epochs for round_ in rounds):
        moments["trained"] = Moment.of([])  # there was no training after this round
    density = Estimate.of(round_.mask.density for round_ in rounds)
    best = Estimate.of(one.trained.best_val_epoch for one in rounds)
    return RoundRow(rounds[0].number, density, moments, best, metric)


def _dense_round(networks: Sequence[DenseResult]) -> RoundRow:
    """Return the means over dense networks: ``trained`` is their last state, ``best_dense`` the best by validation."""
    last = Moment.of([Accuracy(network.test_accuracy, network.test_loss) for network in networks])
    best = Moment.of([Accuracy(network.best_test_accuracy, network.best_test_loss) for network in networks])
    moments = dict.fromkeys(MOMENTS, Moment.of([])) | {"best_dense": best, "trained": last}
    density, epochs = Estimate.of(1.0 for _ in networks), Estimate.of(network.best_val_epoch for network in networks)
    return RoundRow(0, density, moments, epochs, networks[0].metric)


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """Results of one method at one sparsity as means over seeds; sparsity 0 stands for the dense network."""

    method: str
    variant: str = ""  # schedule, rounds, rewinding and control, where rows of the method differ in them
    sparsity: float
    find_at: str  # "early" where the schedule finds it
    label: str = ""  # the variant, and the moment that masks were found at where rows of the variant differ in it
    control: str = "none"  # which control it is; "none" if it is no control
    learned: bool = False  # by gradient: a supermask
    granularity: str = ""  # weight or filter; "" of the dense network
    metric: Metric = _ACCURACY  # of the next six; accuracies are in [0, 1]

    masked: Estimate = _NOTHING  # test metric under the mask before its repair; nothing where there is no repair
    untrained: Estimate = _NOTHING  # test metric under the mask at the rewound weights, repaired where that is set
    trained: Estimate  # test metric after the last epoch of retraining
    beside_dense: Estimate = _NOTHING  # that, minus the metric of the network of the same seed in the dense row
    by_seed: Mapping[int, tuple[float | None, float | None]] = field(default_factory=dict)  # untrained and trained
    validation: Estimate = _NOTHING  # metric after the last epoch, or on the rest without training; diverged: the worst
    accuracy_gap: Estimate = _NOTHING  # metric on the search examples minus on the rest of val; > 0: optimistic

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
    kept_criteria: int = 0  # seeds whose search found nothing better than its start or another criterion's mask
    diverged: int = 0  # seeds whose retraining ended early, because its loss was not finite

    rounds: tuple[RoundRow, ...]  # of pruning and training, one after the other


def summarise(cells: Iterable[CellResult], dense: Iterable[DenseResult] = ()) -> list[SummaryRow]:
    """Return rows of a results table, as means over seeds: the dense network, then each method at each sparsity.

    Parameters
    ----------
    dense : iterable of DenseResult
        Further dense networks; of several with one seed the first counts.
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
        metric=networks[0].metric,
        trained=Estimate.of(network.test_accuracy for network in networks),
        params=Estimate.of([whole.nonzero_params]),
        compression=Estimate.of([1.0]),
        macs=Estimate.of([1.0]),
        total_macs=Estimate.of([whole.macs]),
        speedup=Estimate.of([1.0]),
        latency=Estimate.of([sum(latencies) / len(latencies)] if latencies else []),
        rounds=(_dense_round(networks),),
    )


def _row(group: Group, networks: Mapping[int, DenseResult]) -> SummaryRow:
    cells, cap = group.cells, group.cells[0].cap
    names = ("method", "variant", "sparsity", "find_at", "label", "control", "learned")
    return SummaryRow(
        **{name: getattr(group, name) for name in names},
        granularity=cells[0].granularity,
        metric=cells[0].metric,
        masked=Estimate.of(cell.last.found.test_accuracy for cell in cells if _repairs(cell)),
        untrained=Estimate.of(cell.untrained.test_accuracy for cell in cells),
        trained=Estimate.of(cell.trained.test_accuracy for cell in cells),
        beside_dense=Estimate.of_differences(
            (cell.trained.test_accuracy, networks[cell.seed].test_accuracy) for cell in cells
        ),
        by_seed={cell.seed: (cell.untrained.test_accuracy, cell.trained.test_accuracy) for cell in cells},
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
        rounds=tuple(_round_row(rounds, cells[0].metric) for rounds in zip(*(c.rounds for c in cells), strict=True)),
    )


def _repairs(cell: CellResult) -> bool:
    """Return whether a cell's masked network was repaired by least squares before its training."""
    return find_setting(cell.settings, "reconstruct") not in (None, "off")


def _validation(cell: CellResult) -> float | None:
    if cell.trained.diverged:
        return cell.metric.worst
    value = cell.trained.val_accuracy
    return cell.trained.rest_accuracy if value is None else value


def layer_means(group: Group) -> dict[str, tuple[float, float, float]]:
    """Return {layer: (density, MACs of kept weights, MACs when dense)}, means over seeds of one method and sparsity.

    The density is NaN where a layer has no units of its own.
    """
    means = {}
    for name in group.cells[0].layers:
        costs = [cell.layers[name] for cell in group.cells]
        densities = [cell.mask.densities.get(name, math.nan) for cell in group.cells]
        figures = densities, [cost.macs_left for cost in costs], [cost.macs for cost in costs]
        density, left, dense = (sum(values) / len(values) for values in figures)
        means[name] = density, left, dense
    return means
