"""Moments of a training, written ``0``, ``3ep``, ``500it``, ``end``, ``best`` or ``best:3ep``."""

import re
from dataclasses import dataclass

from masksearch.utils.errors import InputError

_BEST = "best"


@dataclass(frozen=True)
class TrainingMoment:
    """Moment of a training: after some epochs or optimiser steps, at the end, or after the best epoch.

    With ``best`` it is the state after the epoch with the best validation result of all epochs until then.
    ``str(TrainingMoment.parse(text))`` is canonical: ``0ep`` and ``0it`` are ``0``.
    """

    count: int  # number of epochs or steps, as `unit` says; 0 for "end"
    unit: str  # "ep" (epochs), "it" (optimiser steps) or "end"
    best: bool = False  # whether it is the best epoch by validation until then; the unit is "ep" or "end"

    @classmethod
    def parse(cls, text: str, name: str = "moment") -> "TrainingMoment":
        """Return the moment that a text names: ``0``, ``3ep`` (epochs), ``500it`` (steps), ``end``, ``best``.

        ``best`` is of the whole training, ``best:3ep`` of its first 3 epochs.

        Raises
        ------
        InputError
            For anything else; the message begins with ``name``.
        """
        if text in ("end", _BEST):
            return cls(0, "end", text == _BEST)
        if match := re.fullmatch(rf"{_BEST}:(\d{{1,9}})ep", text):
            if int(match[1]):
                return cls(int(match[1]), "ep", True)
        elif (match := re.fullmatch(r"(\d{1,9})(ep|it)?", text)) and (match[2] or not int(match[1])):
            return cls(int(match[1]), match[2] if int(match[1]) else "ep")
        raise InputError(
            f"{name}: {text!r} is not a moment of a training; write 0, 3ep (epochs), 500it (steps), end, "
            "best (by validation) or best:3ep (of the first 3 epochs)"
        )

    def steps(self, steps_per_epoch: int, epochs: int) -> int:
        """Return the number of optimiser steps from a training's start to this moment.

        For ``best`` these are the steps until this moment, because only then the best epoch is decided.
        """
        if self.unit == "end":
            return epochs * steps_per_epoch
        return self.count * (steps_per_epoch if self.unit == "ep" else 1)

    def check_within(self, steps_per_epoch: int, epochs: int, name: str = "moment") -> None:
        """Raise an :class:`InputError` if this moment is after the end of a training of ``epochs`` epochs."""
        if self.steps(steps_per_epoch, epochs) > epochs * steps_per_epoch:
            raise InputError(
                f"{name}: {self} is longer than the training, which has {epochs}ep = {epochs * steps_per_epoch}it"
            )

    def __str__(self) -> str:
        if self.unit == "end":
            return _BEST if self.best else "end"
        text = f"{self.count}{self.unit}" if self.count else "0"
        return f"{_BEST}:{text}" if self.best else text
