"""Rounds over seeds: every round's mask at every moment that is published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from masksearch.analysis.statistics import Estimate
from masksearch.experiment.results import Accuracy, CellResult, DenseResult

__all__ = ["MOMENTS", "Moment", "RoundRow", "dense_row", "round_rows"]

MOMENTS = ("untrained", "best_dense", "found", "trained")
"""Under the round's mask: at the weights that training starts from; at the dense network's best weights by validation
("@w0"); at the weights that the mask was found at, those of the last round ("@w(t-1)"); after training."""


@dataclass(frozen=True)
class Moment:
    """Test accuracy, in [0, 1], and test loss."""

    accuracy: Estimate
    loss: Estimate


@dataclass(frozen=True)
class RoundRow:
    """One round of a group, over all seeds; or the dense network (``number`` 0)."""

    number: int
    density: Estimate
    moments: Mapping[str, Moment]  # by MOMENTS; without numbers where there was nothing to look at
    best_epoch: Estimate  # by validation, counted as the learning-rate schedule counts

    @property
    def texts(self) -> tuple[str, ...]:
        """The row's cells in tables: means without intervals; accuracies and densities are in percent."""
        moments = [self.moments[name] for name in MOMENTS]
        figures = [text for m in moments for text in (m.accuracy.plain(".2f", 100), m.loss.plain(".3f"))]
        whole = self.best_epoch.mean.is_integer()
        number = str(self.number) if self.number else "–"
        return (number, self.density.plain(".4g", 100), *figures, self.best_epoch.plain(".0f" if whole else ".1f"))


def round_rows(cells: Sequence[CellResult]) -> tuple[RoundRow, ...]:
    """One row per round, with means over the cells, which differ only in their seed."""
    rows = []
    for rounds in zip(*(cell.rounds for cell in cells), strict=True):
        moments = {name: _moment([getattr(round_, name) for round_ in rounds]) for name in MOMENTS}
        if not any(round_.epochs for round_ in rounds):
            moments["trained"] = _moment([])  # there was no training after this round
        rows.append(
            RoundRow(
                rounds[0].number,
                Estimate.of(round_.mask.density for round_ in rounds),
                moments,
                Estimate.of(round_.trained.best_val_epoch for round_ in rounds),
            )
        )
    return tuple(rows)


def dense_row(networks: Sequence[DenseResult]) -> RoundRow:
    """The dense networks of all seeds: ``trained`` is their last state, ``best_dense`` the best by validation."""
    nothing = _moment([])
    last = [Accuracy(network.test_accuracy, network.test_loss) for network in networks]
    best = [Accuracy(network.best_test_accuracy, network.best_test_loss) for network in networks]
    return RoundRow(
        0,
        Estimate.of(1.0 for _ in networks),
        {"untrained": nothing, "best_dense": _moment(best), "found": nothing, "trained": _moment(last)},
        Estimate.of(network.best_val_epoch for network in networks),
    )


def _moment(figures: Sequence[Accuracy]) -> Moment:
    return Moment(Estimate.of(one.test_accuracy for one in figures), Estimate.of(one.test_loss for one in figures))
