"""Moments in a training, with their unit: ``0``, ``3ep``, ``500it``, ``end``."""

import re
from dataclasses import dataclass

from masksearch.errors import InputError

__all__ = ["Duration"]


@dataclass(frozen=True)
class Duration:
    """A moment in a training: so many epochs or optimiser steps after its start, or its end.

    ``str(Duration.parse(text))`` is canonical: ``0ep`` and ``0it`` are ``0``.
    """

    count: int  # of `unit`; 0 for "end"
    unit: str  # "ep", "it" or "end"

    @classmethod
    def parse(cls, text: str, name: str = "duration") -> "Duration":
        """Read ``0``, ``3ep``, ``500it`` or ``end``.

        Raises
        ------
        InputError
            For anything else; the message begins with ``name``.
        """
        if text == "end":
            return cls(0, "end")
        match = re.fullmatch(r"(\d+)(ep|it)?", text)
        if not match or (match[2] is None and int(match[1]) != 0):
            raise InputError(
                f"{name}: {text!r} is no moment of a training; write 0, 3ep (epochs), 500it (steps) or end"
            )
        return cls(int(match[1]), match[2] if int(match[1]) else "ep")

    def steps(self, steps_per_epoch: int, epochs: int) -> int:
        """The number of optimiser steps from the start of a training of ``epochs`` epochs."""
        if self.unit == "end":
            return epochs * steps_per_epoch
        return self.count * (steps_per_epoch if self.unit == "ep" else 1)

    def check_within(self, steps_per_epoch: int, epochs: int, name: str = "duration") -> None:
        """Raise an :class:`InputError` if this moment lies after the end of the training."""
        if self.steps(steps_per_epoch, epochs) > epochs * steps_per_epoch:
            raise InputError(
                f"{name}: {self} is longer than the training, which has {epochs}ep = {epochs * steps_per_epoch}it"
            )

    def __str__(self) -> str:
        return "end" if self.unit == "end" else f"{self.count}{self.unit}" if self.count else "0"
