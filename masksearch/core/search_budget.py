"""Budget of a search: how many masks it may score, and how many seconds it may take."""

from dataclasses import dataclass

from masksearch.utils.errors import LARGEST, InputError, check_type


@dataclass(frozen=True)
class Budget:
    """Limits of a search: a number of scored masks, of seconds, or both. The search ends at the first limit reached."""

    scorings: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.scorings is None and self.seconds is None:
            raise InputError("budget: neither scorings nor seconds; at least one is needed, or the search has no end")
        if self.scorings is not None and (type(self.scorings) is not int or not 1 <= self.scorings <= LARGEST):
            raise InputError(
                f"budget: {str(self.scorings)[:40]} scorings; a whole number from 1 to {LARGEST:,} is needed"
            )
        if self.seconds is not None:
            check_type("budget in seconds", self.seconds, (int, float), "a number of seconds")
        if self.seconds is not None and not self.seconds > 0:
            raise InputError(f"budget: {self.seconds} seconds; more than 0 is needed")

    @classmethod
    def of(cls, budget: "int | Budget | None") -> "Budget":
        """Return a search budget: a number n becomes a Budget of n scored masks; a Budget is returned unchanged."""
        return budget if isinstance(budget, Budget) else cls(scorings=budget)

    def left(self, scorings: int, seconds: float) -> int | None:
        """Return how many more masks a search may score; None if only time is limited, 0 if the budget is spent."""
        if self.spent(scorings, seconds) >= 1:
            return 0
        return None if self.scorings is None else self.scorings - scorings

    def spent(self, scorings: int, seconds: float) -> float:
        """Return the used share of the budget after ``scorings`` scored masks and ``seconds``; at 1, a search ends."""
        shares = []
        if self.scorings is not None:
            shares.append(scorings / self.scorings)
        if self.seconds is not None:
            shares.append(seconds / self.seconds)
        return max(shares)

    def covers(self, other: "Budget") -> bool:
        """Whether this budget allows at least as many scored masks, and as many seconds, as the budget ``other``."""
        pairs = ((self.scorings, other.scorings), (self.seconds, other.seconds))
        return all(own is None or (theirs is not None and own >= theirs) for own, theirs in pairs)
