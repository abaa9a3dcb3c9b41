"""What every searcher is: start, ask, tell, and a state that round-trips."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

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

    settings_group: ClassVar[str | None] = None
    """The group of a sweep's settings whose fields are all fields of the searcher, too."""

    ranks_units: ClassVar[bool] = False
    """Whether every mask has the top units of a ranking, so that ``Problem.refine`` applies."""

    names_saliency: ClassVar[bool] = False
    """Whether the field ``saliency`` must name the saliency to start from."""

    refuses_problems: ClassVar[bool] = False
    """Whether :meth:`start` refuses some problems of one density: too many parameters, no saliencies."""

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

    def finish(self) -> None:
        """Release or write what is left when a search is over or interrupted; nothing by default.

        Called once by the loop after :meth:`start`, also after an error. The history is complete by then.
        """
        return

    @property
    def supports_costs(self) -> bool:
        """Whether problems may have a cost: the Pareto front of score and cost is searched then."""
        return False

    @property
    def shares_trials(self) -> bool:
        """Whether trials of other searches are taken in, so that these must have other seeds."""
        return False

    def with_settings(self, **settings: Any) -> "Searcher":
        """A copy of the searcher with some dataclass fields replaced."""
        return replace(self, **settings)  # type: ignore[type-var]

    def placed(self, folder: Path, study: str | None = None) -> "Searcher":
        """The searcher for a search that has a folder; the searcher itself if it writes no files.

        Parameters
        ----------
        folder : Path
            Of the search. Files of the searcher's own go there by default.
        study : str, optional
            Name of the study, for a searcher that shares its trials.
        """
        return self

    def unplaced(self) -> "Searcher":
        """The searcher without files or storages, for checks before a search."""
        return self

    @property
    def incumbent(self) -> Mask | None:
        """The mask it stands on, if it stands on one: annealing's current mask."""
        return None

    def metrics(self) -> dict[str, float]:
        """Numbers worth a curve (temperature, radius, ...), by name."""
        return {}
