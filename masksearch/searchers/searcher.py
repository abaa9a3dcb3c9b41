"""The base class of searchers: start, ask, tell, and a state that can be saved and loaded."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Problem, Proposal, Score
from masksearch.searchers.state import load_state, saved_state
from masksearch.utils.errors import InputError
from masksearch.utils.seeds import torch_generator


class Searcher(ABC):
    """Base class of searchers, which propose masks and learn from their scores.

    A searcher sees sizes, layers and scores, and no network.

    A searcher of your own needs two methods, :meth:`ask` and :meth:`tell`. Both can use what :meth:`start` sets:

    - ``self.problem``: space, density, budget, seed, start mask and saliencies of the search;
      ``self.problem.random_mask(self.generator)`` draws a random mask that the problem allows.
    - ``self.generator``: a random generator with a seed that is derived from the problem's seed.

    Settings are dataclass fields, and a search doesn't change them. A searcher that remembers something from one call
    to the next makes a dataclass in :meth:`reset` and keeps it as ``self.state``
    (:class:`~masksearch.searchers.random_search.RandomSearch` is an example).

    The loop in :func:`masksearch.search` takes care of budgets, the best mask so far, repeated masks and the history.
    """

    settings_group: ClassVar[str | None] = None
    """Name of the group of experiment settings, such as "optuna", that set this searcher's fields; None: no group."""

    ranks_units: ClassVar[bool] = False
    """Whether each proposed mask keeps the top units of some ranking, so that ``Problem.refine`` can improve it."""

    names_saliency: ClassVar[bool] = False
    """Whether the searcher starts from a saliency only if its field ``saliency`` has the name of that saliency."""

    refuses_problems: ClassVar[bool] = False
    """Whether :meth:`start` refuses some problems of one density with an error, such as those with many parameters."""

    needs_energy: ClassVar[bool] = False
    """Whether the problem must have an ``energy``, which is an estimate of the damage by a mask without scoring it."""

    takes_criterion_start: ClassVar[bool] = True
    """Whether a search on trained weights starts from a pruning criterion's mask by default, not from a random mask."""

    problem: Problem
    generator: torch.Generator

    def __repr__(self) -> str:
        """The class's name; a searcher with settings is a dataclass, whose repr shows them."""
        return f"{type(self).__name__}()"

    def identity(self) -> dict[str, object]:
        """Return the class's name and all settings that differ from their default, as a dict that JSON can store."""
        identity: dict[str, object] = {"class": type(self).__qualname__}
        own: tuple[Field[object], ...] = fields(self) if is_dataclass(self) else ()
        for item in own:
            value = getattr(self, item.name)
            if item.repr and value != item.default:  # where it writes files is no part of its repr
                identity[item.name] = list(value) if isinstance(value, tuple) else value
        return identity

    def start(self, problem: Problem) -> None:
        """Begin a new search for ``problem``; the state of any earlier search is discarded."""
        self.problem = problem
        self.generator = torch_generator(problem.seed, type(self).__name__)
        self.reset()

    def reset(self) -> None:  # noqa: B027 (may be left out)
        """Set ``self.state`` at the beginning of a search. Override this method in searchers that have a state."""

    @abstractmethod
    def ask(self, n: int = 1) -> list[Proposal]:
        """Return the next masks to be scored, as 1 to ``n`` proposals; an empty list ends the search.

        While other proposals wait for their scores (:attr:`supports_late_scores`), an empty list only means that the
        search asks again after the next score.
        """

    @abstractmethod
    def tell(self, proposals: Sequence[Proposal], scores: Sequence[Score]) -> None:
        """Learn from the scores of the masks that :meth:`ask` proposed last; scores and masks are in the same order.

        A searcher that supports late scores gets any proposals that wait for their scores, the very objects. After a
        resume, it gets masks that it has proposed before.
        """

    @property
    def supports_resuming(self) -> bool:
        """Whether an interrupted search can be saved and resumed, with the same result as without interruption.

        True for searchers with a ``self.state``, and for searchers without any attributes but dataclass fields,
        ``problem`` and ``generator``. Other searchers need a :meth:`state_dict` of their own.
        """
        return type(self).state_dict is not Searcher.state_dict or hasattr(self, "state") or not self._unsaved()

    def _unsaved(self) -> list[str]:
        """Names of the attributes that :meth:`state_dict` doesn't save."""
        settings: set[str] = {field.name for field in fields(self)} if is_dataclass(self) else set()
        return sorted(set(vars(self)) - settings - {"problem", "generator", "state"})

    def state_dict(self) -> dict[str, object]:
        """Return the searcher's state for a checkpoint, as nested dicts, lists, numbers, strings, arrays and tensors.

        Call it between a tell and the next ask.

        Raises
        ------
        InputError
            If the searcher doesn't support resuming.
        """
        if not self.supports_resuming:
            raise InputError(
                f"state: {type(self).__name__} keeps {', '.join(self._unsaved())} outside of self.state, so the search "
                "can't be saved; keep them in a dataclass that reset() assigns to self.state"
            )
        state = getattr(self, "state", None)
        return {"generator": self.generator.get_state(), "state": None if state is None else saved_state(state)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that :meth:`state_dict` returned. Call :meth:`start` with the same problem before.

        Raises
        ------
        InputError
            If another version of the searcher saved the state.
        """
        fresh = getattr(self, "state", None)
        if set(state) != {"generator", "state"} or (fresh is None) != (state["state"] is None):
            raise InputError(
                f"state: it wasn't saved by this {type(self).__name__}, so the search can't be resumed; start it again "
                "in another folder"
            )
        if fresh is not None:
            self.state = load_state(fresh, state["state"], self.problem.space)
        self.generator.set_state(state["generator"])

    def finish(self) -> None:
        """End a search: close files and write results, if the searcher has any; by default, do nothing.

        Called once by the loop after :meth:`start`, also after an error. The history is complete by then.
        """
        return

    @property
    def supports_costs(self) -> bool:
        """Whether the searcher can search for a Pareto front of score and cost."""
        return False

    @property
    def supports_late_scores(self) -> bool:
        """Whether :meth:`tell` accepts scores in any order, as parallel workers finish, not only all at once."""
        return False

    @property
    def shares_trials(self) -> bool:
        """Whether the searcher also learns from masks that other searches have scored, such as those of other seeds."""
        return False

    def with_settings(self, **settings: Any) -> "Searcher":
        """Return a copy of the searcher with new values of the given dataclass fields."""
        return replace(self, **settings)  # type: ignore[type-var]

    def placed(self, folder: Path, study: str | None = None) -> "Searcher":
        """Return a copy of the searcher that writes its files to ``folder``; this searcher if it writes no files.

        Parameters
        ----------
        folder : Path
            Folder of the search. Files of the searcher's own go there by default.
        study : str, optional
            Name of the study, for a searcher that shares its trials.
        """
        return self

    def unplaced(self) -> "Searcher":
        """Return this searcher in a form that writes no files and opens no storage, for checks before a search."""
        return self

    @property
    def incumbent(self) -> Mask | None:
        """Return the searcher's current mask if it moves from mask to mask, as annealing does; otherwise None."""
        return None

    @property
    def predicted_best(self) -> Mask | None:
        """Return the mask that the searcher predicts to be best, of use with noisy scores; None if it predicts none."""
        return None

    def metrics(self) -> dict[str, float]:
        """Return {name: number} of values to record with each scored mask, such as the present temperature."""
        return {}
