"""What every searcher is: start, ask, tell, and a state that round-trips."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from masksearch.mask import Mask
from masksearch.trial import Problem, Proposal, Score

__all__ = ["Searcher"]


class Searcher(ABC):
    """Proposes masks and learns from their scores. It knows sizes, layers and scores, and nothing about networks.

    Settings are dataclass fields and never change; everything else is state, made by :meth:`start`, and goes through
    :meth:`state_dict` and :meth:`load_state_dict`, random generator included, so that a search that is taken up again
    makes the same proposals as one that never stopped (but for those that share a study of Optuna's). Budgets, the best
    mask so far, NaN and the history are the loop's business.
    """

    problem: Problem

    @abstractmethod
    def start(self, problem: Problem) -> None:
        """Forget everything and begin with ``problem``."""

    @abstractmethod
    def ask(self, n: int = 1) -> list[Proposal]:
        """At least one and at most ``n`` proposals; none once the searcher is through."""

    @abstractmethod
    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:
        """Take the scores of all proposals of the last :meth:`ask`, in its order."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The state between a tell and the next ask: nested dicts, lists, numbers, strings, arrays and tensors."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state, after :meth:`start` with the same problem."""

    @property
    def weighs_costs(self) -> bool:
        """Whether it takes problems with a cost, and searches the Pareto front of score and cost."""
        return False

    @property
    def incumbent(self) -> Mask | None:
        """The mask it stands on, if it stands on one: annealing's current mask."""
        return None

    def metrics(self) -> dict[str, float]:
        """Numbers worth a curve (temperature, radius, ...), by name."""
        return {}
