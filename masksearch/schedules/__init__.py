"""Schedules of pruning and training: their table, densities of rounds, and the early-bird detector."""

from dataclasses import dataclass
from typing import Literal

from masksearch.core.density_allocation import Amount
from masksearch.schedules.early_bird import EarlyBird, mask_distances
from masksearch.utils.errors import InputError
from masksearch.utils.registry import Table

__all__ = ["SCHEDULES", "EarlyBird", "Schedule", "mask_distances", "round_densities"]


@dataclass(frozen=True)
class Schedule:
    """Definition of a pruning schedule in ``SCHEDULES``: default settings for rounds, rewinding and changing masks."""

    about: str  # description in one line
    rounds: int = 1  # number of rounds of pruning and training; 1: no rounds
    rewind_to: str = "0"  # moment whose weights every round's training starts from; none: no rewinding
    epochs: int | None = None  # epochs of training per round; None: as many as in the dense training
    trains_between: bool = True  # whether every round has a training, not only the last one
    changes: Literal["ramp", "set", "rigl"] | None = None  # how the mask changes during a training; None: not at all
    detects: bool = False  # whether the mask is drawn when it no longer changes between epochs
    bn_l1: float = 0.0  # default L1 term on BatchNorm scales of the dense training

    @property
    def has_own_moment(self) -> bool:
        """Whether the schedule itself chooses the epoch in which masks are found, so that ``find_at`` is not used."""
        return self.detects or self.changes == "ramp"


SCHEDULES: Table[Schedule] = Table(
    "schedule",
    {
        "one_shot": Schedule("prune once, then retrain"),
        "iterative": Schedule(
            "rounds: prune an equal share of the kept units, train on (Han et al. 2015)", 4, rewind_to="none"
        ),
        "lottery_ticket": Schedule(
            "rounds: prune an equal share of the kept units, rewind the weights, retrain (Frankle & Carbin 2019)", 4
        ),
        "prune_finetune": Schedule(
            "rounds: prune an equal share of the kept units, fine-tune for a few epochs (Li et al. 2017)",
            3,
            rewind_to="none",
            epochs=4,
        ),
        "multi_shot": Schedule(
            "rounds: rank and prune, without training between them; train at the end (Tanaka et al. 2020)",
            10,
            trains_between=False,
        ),
        "gradual": Schedule(
            "raise the sparsity along a cubic curve during one training (Zhu & Gupta 2017)", changes="ramp"
        ),
        "set": Schedule(
            "during one training, drop the smallest weights and regrow random ones (Mocanu et al. 2018)", changes="set"
        ),
        "rigl": Schedule(
            "during one training, drop the smallest weights and regrow those with large gradients (Evci et al. 2020)",
            changes="rigl",
        ),
        "early_bird": Schedule(
            "find the mask in the dense training, when it no longer changes between epochs (You et al. 2020)",
            rewind_to="none",
            detects=True,
        ),
        "network_slimming": Schedule(
            "train densely with an L1 term on BatchNorm scales, prune, fine-tune (Liu et al. 2017)",
            rewind_to="none",
            bn_l1=1e-4,
        ),
    },
)


def round_densities(density: float | None = None, rounds: int = 1, *, sparsity: float | None = None) -> list[float]:
    """Return the density after each of several pruning rounds, falling by a constant factor to ``density``.

    Every round prunes the same share, 1 - density ** (1 / rounds), of the remaining units. Exactly one of ``density``
    and ``sparsity``, which is 1 - density, is given.

    Raises
    ------
    InputError
        For fewer than one round, or a density outside (0, 1].
    """
    if rounds < 1:
        raise InputError(f"rounds: {rounds}; at least 1 is needed")
    return [amount.single("rounds have one") for amount in Amount.of(density, sparsity=sparsity).in_rounds(rounds)]
