"""How scores are learned, as one frozen record that is checked when it is made."""

from dataclasses import dataclass
from math import inf

from masksearch.errors import InputError

__all__ = ["SupermaskSettings"]


@dataclass(frozen=True)
class SupermaskSettings:
    """What a user decides about the learning of scores; the optimiser's other numbers are the published ones."""

    epochs: int = 5
    """Passes over the training images; 0 leaves the scores as they start."""
    batch_size: int = 64
    """Images per step; the last batch of an epoch may be smaller."""
    lr: float | None = None
    """Learning rate of the scores at the start; None takes the method's published one."""
    rescale: bool = True
    """Scale kept weights up while scores are learned, as the papers do; without it logits are too small to learn."""

    def __post_init__(self) -> None:
        _need("epochs", self.epochs, self.epochs >= 0, "0 or more")
        _need("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        _need("lr", self.lr, self.lr is None or 0 < self.lr < inf, "a finite number above 0, or None")


def _need(name: str, value: object, fine: bool, allowed: str) -> None:
    if not fine:
        raise InputError(f"{name}: {value}; allowed is {allowed}")
