"""Settings of pruning schedules, which decide how the density falls, and of retraining."""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from masksearch.experiment.settings.text_values import check_fields, check_least
from masksearch.schedules import SCHEDULES, EarlyBird
from masksearch.training.training_moment import TrainingMoment
from masksearch.utils.errors import InputError, check_numbers, require
from masksearch.utils.registry import choose

Control = Literal["shuffle", "reinit", "repair"]
Reconstruct = Literal["off", "independent", "sequential", "blockwise"]


@dataclass(frozen=True)
class ScheduleSettings:
    """Settings of pruning schedules and of the retraining of masked networks."""

    schedule: tuple[str, ...] = ("one_shot",)
    """Pruning schedules, which decide in how many steps the network is pruned: names in --list.
    Each schedule is combined with every method."""
    rounds: tuple[int, ...] = ()
    """Numbers of pruning rounds to compare, for schedules that prune in several rounds.
    Each round prunes and trains. If not given, every schedule uses its default; 0 trains the dense network only."""
    rewind_to: tuple[str, ...] = ()
    """Weights that retraining starts from: 0, 3ep, 500it, end, best, random, none or lr.
    "0", "3ep" (after 3 epochs), "500it" (after 500 steps), "end" and "best" are moments of the dense training. "random"
    draws new weights. "none" keeps the weights at which the mask was found; "lr" keeps them too, and restarts the
    learning rate schedule."""
    retrain_epochs: int | None = None
    """Number of epochs for which each masked network is retrained.
    If not given, the schedule's number or, if it has none, as many epochs as the dense training has or has left after
    rewind_to."""
    between_epochs: int | None = None
    """Epochs of training between two pruning rounds; if not given, the same number as after the last round."""
    retrain_lr: tuple[float, ...] = ()
    """Learning rates to compare in retraining.
    For each method and sparsity, the rate with the best validation accuracy is chosen."""
    retrain_warmup: float | None = None
    """Epochs of learning rate warm-up at the start of retraining; if not given, as in the dense training."""
    retrain_distill: tuple[float, ...] = ()
    """Weights of the distillation loss to compare in retraining, each with all methods; 0 means no distillation.
    If not given, the setting train.distill."""
    retrain_temperature: tuple[float, ...] = ()
    """Temperatures of distillation to compare in retraining, each with all methods.
    If not given, the setting train.distill_temperature."""
    reconstruct: Reconstruct = "off"
    """Repair of masked networks before retraining, for every method: off, independent, sequential or blockwise.
    The repair refits kept weights by least squares so that each layer's output is close to that of the dense layer. The
    inputs that a layer is refitted on come from the dense network ("independent"), or from the layers that are already
    repaired ("sequential"). "blockwise" prunes weights block after block (ms.one_shot), at the densities of layers that
    the found mask has: SparseGPT chooses the weights and updates the kept ones; magnitude and wanda choose their own
    weights and update none. With "blockwise", find_at is "end" and rewind_to
    "none" unless they are given."""
    control: tuple[Control, ...] = ()
    """Control networks to retrain in addition to each masked network: shuffle, reinit or repair.
    "shuffle" permutes the mask within each layer, "reinit" draws new weights, "repair" makes kept weights
    as orthonormal as the mask allows."""
    early_bird_threshold: float | None = None
    """For schedule = "early_bird": largest distance from the masks of the 4 epochs before at which a mask is taken.
    The distance is the share of units in which two masks differ. If not given, 0.1."""
    early_bird_relative: bool = False
    """For schedule = "early_bird": divide the distance of two masks by the distance of random masks.
    Random masks of the same density d have the expected distance 2 d (1 - d). Then early_bird_threshold is 0.2 by
    default."""
    update_every: int | None = None
    """Optimiser steps from one change of the mask to the next, for schedule = "gradual", "set" or "rigl".
    If not given, 100, or a fortieth of the training if the training has fewer than 4,000 steps."""
    drop_share: float = 0.3
    """Share of a layer's kept weights that each change of the mask replaces, for schedule = "set" or "rigl".
    For "rigl" it is the share at the start of the training."""
    save_at: tuple[str, ...] = ()
    """Moments, such as 3ep or 500it, at which every training saves the weights, besides the end."""

    def __post_init__(self) -> None:
        check_fields(self, "schedule")
        check_least(self, retrain_epochs=0, between_epochs=0, update_every=1)
        check_numbers(self, rounds=1000, retrain_epochs=1_000_000, between_epochs=1_000_000, retrain_lr=1e38)
        for schedule in self.schedule:
            choose("schedule", schedule, list(SCHEDULES))
        if self.rounds:
            self._check_rounds()
        for moment in self.rewind_to:
            parse_rewind(moment)
        for moment in self.save_at:
            TrainingMoment.parse(moment, "save_at")
        for lr in self.retrain_lr:
            require("retrain_lr", lr, 0 < lr < float("inf"), "a finite number above 0")
        choose("reconstruct", self.reconstruct, list(get_args(Reconstruct)))
        warmup = self.retrain_warmup
        finite = warmup is None or 0 <= warmup < float("inf")
        require("retrain_warmup", warmup, finite, "a finite number of epochs, 0 or more")
        for weight in self.retrain_distill:
            require("retrain_distill", weight, 0 <= weight <= 1, "in [0, 1]")
        for temperature in self.retrain_temperature:
            require("retrain_temperature", temperature, 0 < temperature < float("inf"), "a finite number above 0")
        require("drop_share", self.drop_share, 0 < self.drop_share < 1, "between 0 and 1, both excluded")
        self.early_bird(self.early_bird_relative)

    def _check_rounds(self) -> None:
        given = " ".join(map(str, self.rounds))
        require("rounds", given, min(self.rounds) >= 0, "0 or more")
        if 0 in self.rounds:
            require("rounds", given, self.rounds == (0,), "0, for the dense network alone, by itself")
        elif not any(SCHEDULES[name].rounds > 1 for name in self.schedule):
            able = ", ".join(name for name, row in SCHEDULES.items() if row.rounds > 1)
            raise InputError(
                f"rounds: {given}; {' '.join(self.schedule)} prunes in one round; schedules with rounds are {able}"
            )

    def early_bird(self, relative: bool) -> EarlyBird:
        """Return the rule by which early-bird schedules decide that a mask no longer changes from epoch to epoch."""
        return EarlyBird(self.early_bird_threshold, relative)

    @property
    def dense_alone(self) -> bool:
        """Whether a sweep trains only the dense network, and prunes nothing."""
        return self.rounds == (0,)


def parse_rewind(text: str) -> TrainingMoment | Literal["none", "lr", "random"]:
    """Parse the setting ``rewind_to``: return a moment of the dense training, or ``none``, ``lr`` or ``random``."""
    if text in ("none", "lr", "random"):
        return cast(Literal["none", "lr", "random"], text)
    return TrainingMoment.parse(text, "rewind_to (besides none, lr, random)")
