"""What happens around a mask: its schedule, the weights its ticket starts from, how it is retrained."""

from dataclasses import dataclass
from typing import Literal, get_args

from masksearch.schedules import SCHEDULES, EarlyBird
from masksearch.training.duration import Duration
from masksearch.utils.errors import InputError, require
from masksearch.utils.registry import choose

__all__ = ["Control", "ScheduleSettings", "parse_rewind"]

Control = Literal["shuffle", "reinit", "repair"]
_WORDS = ("none", "lr", "random")


@dataclass(frozen=True)
class ScheduleSettings:
    """How masks are found over time, and what becomes of the tickets."""

    schedule: tuple[str, ...] = ("one_shot",)
    """Schedules, which decide how density falls: rows of --list. Each is combined with every method."""
    rounds: tuple[int, ...] = ()
    """Numbers of rounds, for schedules with rounds; each schedule's usual number if not given. 0 trains the dense
    network only."""
    rewind_to: tuple[str, ...] = ()
    """Weights that retraining starts from: those at 0, 3ep, 500it, end or best of the dense training, random, none
    (the weights at which the mask was found), or lr (as none, with the learning rate of the start)."""
    retrain_epochs: int | None = None
    """Epochs of retraining; if not given, as the schedule says, or as many as the dense training has or has left."""
    between_epochs: int | None = None
    """Epochs of training between two rounds; if not given, as many as after the last round."""
    retrain_lr: tuple[float, ...] = ()
    """Learning rates of retraining to compare. For each sparsity, validation chooses one for all methods."""
    control: tuple[Control, ...] = ()
    """Controls of every ticket: shuffle permutes its mask within layers, reinit draws new weights, repair makes its
    weights orthonormal."""
    early_bird_threshold: float | None = None
    """Distance of the masks of five epochs below which an early-bird ticket is drawn; if not given, 0.1 of the
    units."""
    early_bird_relative: bool = False
    """Measure the distance of masks as a share of 2 d (1 - d), the distance of unrelated masks of density d. The
    default of early_bird_threshold is 0.2 then."""
    update_every: int | None = None
    """Optimiser steps between changes of the mask in gradual, set and rigl; if not given, 100, or a fortieth of a
    training below 4,000 steps."""
    drop_share: float = 0.3
    """Share of a layer's kept weights that set and rigl replace per change (rigl: at the start)."""
    save_at: tuple[str, ...] = ()
    """Moments of every training at which its weights are saved, besides its end."""

    def __post_init__(self) -> None:
        some = {"schedule": self.schedule} | {
            name: values
            for name in ("rounds", "rewind_to", "retrain_lr", "control", "save_at")
            if (values := getattr(self, name))
        }
        for name, values in some.items():
            check_some(name, values)
        for schedule in self.schedule:
            choose("schedule", schedule, list(SCHEDULES))
        for control in self.control:
            choose("control", control, list(get_args(Control)))
        if self.rounds:
            self._check_rounds()
        for moment in self.rewind_to:
            parse_rewind(moment)
        for moment in self.save_at:
            Duration.parse(moment, "save_at")
        for name in ("retrain_epochs", "between_epochs"):
            require(name, (value := getattr(self, name)), value is None or value >= 0, "0 or more")
        for lr in self.retrain_lr:
            require("retrain_lr", lr, 0 < lr < float("inf"), "a finite number above 0")
        require("update_every", self.update_every, self.update_every is None or self.update_every >= 1, "1 or more")
        require("drop_share", self.drop_share, 0 < self.drop_share < 1, "between 0 and 1, both excluded")
        self.early_bird(self.early_bird_relative)

    def _check_rounds(self) -> None:
        for rounds in self.rounds:
            require("rounds", rounds, rounds >= 0, "0 or more")
        if 0 in self.rounds:
            require(
                "rounds",
                " ".join(map(str, self.rounds)),
                self.rounds == (0,),
                "0, for the dense network alone, by itself",
            )
        elif not any(SCHEDULES[name].rounds > 1 for name in self.schedule):
            with_rounds = [name for name, row in SCHEDULES.items() if row.rounds > 1]
            raise InputError(
                f"rounds: {' '.join(map(str, self.rounds))}; {' '.join(self.schedule)} has none to choose, "
                f"{', '.join(with_rounds)} have"
            )

    def early_bird(self, relative: bool) -> EarlyBird:
        """The rule that draws an early-bird ticket, its threshold taken one way or the other."""
        return EarlyBird(self.early_bird_threshold, relative)

    @property
    def dense_alone(self) -> bool:
        """Whether nothing is to be pruned."""
        return self.rounds == (0,)


def parse_rewind(text: str) -> Duration | Literal["none", "lr", "random"]:
    """Read a ``rewind_to``: a moment of the dense training, ``none``, ``lr`` or ``random``."""
    if text == "none":
        return "none"
    if text == "lr":
        return "lr"
    if text == "random":
        return "random"
    return Duration.parse(text, f"rewind_to (besides {', '.join(_WORDS)})")


def check_some(name: str, values: tuple[object, ...]) -> None:
    """Raise an :class:`InputError` if nothing is given, or something twice."""
    if not values:
        raise InputError(f"{name}: nothing given; at least one is needed")
    if len(set(values)) < len(values):
        raise InputError(f"{name}: {' '.join(map(str, values))}; each may be given once")
