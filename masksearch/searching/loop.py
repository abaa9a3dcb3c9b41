"""The loop: ask, score, tell, until the budget is spent. Budgets, repeats, checkpoints and the history live here."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from masksearch.core.history import History
from masksearch.core.mask import Mask, Move
from masksearch.core.protocol import (
    Budget,
    Cost,
    HasScore,
    Problem,
    Proposal,
    Refine,
    Score,
    Scoring,
    Trial,
    as_scoring,
)
from masksearch.core.space import Density, Hold, MaskSpace, OnEmpty
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.searching.history_store import HistoryFile
from masksearch.utils.errors import InputError

__all__ = ["Callback", "search"]

Callback = Callable[[Trial, History, Searcher], None]
"""Called after every trial, when the searcher has its score."""

_LOOKS = 400  # per search: trials at which the incumbent is compared with start and best, in O(n_units)


def search(
    space: MaskSpace,
    searcher: Searcher | str,
    scorer: HasScore,
    density: Density,
    budget: int | Budget,
    seed: int = 0,
    *,
    start: Mask | Tensor | None = None,
    saliencies: Mapping[str, Tensor] | None = None,
    on_empty: OnEmpty = "raise",
    hold: Hold = "units",
    refine: Refine | None = None,
    cost: Cost | None = None,
    batch: int = 1,
    keep: int = 5,
    folder: str | Path | None = None,
    callbacks: Iterable[Callback] = (),
) -> History:
    """Search for the mask of highest score.

    Parameters
    ----------
    space : MaskSpace
        Where to search.
    searcher : Searcher or str
        Proposes masks: a searcher, or a name in ``SEARCHERS`` for one with default settings.
    scorer : object with ``score(proposals) -> scores``
        Scores them; higher is better. A scorer that carries something from one scoring to the next also has
        ``refresh()`` and ``refresh_every``; see :class:`~masksearch.core.protocol.Scoring`.
    density : float or {layer name: float}
        Of every mask.
    budget : int or Budget
        Scorings, seconds of proposing and scoring, or both.
    seed : int
        Same seed, same search: but for budgets in seconds, and searches that share a study of Optuna's.
    start : Mask or float tensor (n_units,), optional
        Warm start: a mask, or a saliency whose top units make one.
    saliencies : mapping, optional
        Saliencies by name, for searchers that use them.
    on_empty : {"raise", "allow", "keep_one"}
        Whether masks may empty a layer; see :class:`MaskSpace`.
    hold : {"units", "params", "macs"}
        What the density is a share of. In parameters or MACs, moves keep the number of units that the first mask has,
        and never cost more than the density allows.
    refine : callable, optional
        How searchers that rank units (Optuna's) make masks, if not by taking the top ones:
        ``f(saliency, rank) -> mask``, where ``rank(saliency)`` is the mask of the top ones.
    cost : {"units", "params", "macs"} or callable, optional
        Search the Pareto front of score and cost, ``history.front``. A name says what of the full mask's is counted by
        the space; ``f(mask)`` gives any other share. Masks then are of any density up to ``density``, a share of what
        ``hold`` says, and keep at least one unit of every layer; a start may be of any of these densities.
        Only searchers that ``supports_costs`` can do it: Optuna's, except CMA-ES.
    batch : int
        Proposals asked for at once.
    keep : int
        How many of the best masks the history keeps.
    folder : path, optional
        Where the history grows on disk. If it holds an unfinished search, that goes on, to the same result (with the
        same exceptions) as if it had never stopped.
    callbacks : iterable of callables
        ``f(trial, history, searcher)`` after every trial, those of an earlier process first, with history and searcher
        as they are now. An exception ends the search; what was scored is on disk.

    Returns
    -------
    History
        Everything that was scored; ``history.best.mask`` is the mask of highest score.

    Raises
    ------
    InputError
        If searcher, density, start, budget, scorer or cost don't fit, if the folder holds another search, or an
        unfinished one whose searcher doesn't support resuming.
    """
    searcher = _instance(searcher)
    if batch < 1:
        raise InputError(f"batch: {batch}; at least 1 proposal is asked for at once")
    budget, scoring = Budget.of(budget), as_scoring(scorer)
    if cost is not None:
        _check_cost(cost, searcher, space)
    mask = _start_mask(start, space, density, on_empty, hold, up_to=cost is not None)
    problem = Problem(space, density, budget, seed, mask, saliencies or {}, on_empty, hold, refine, cost)
    if hold == "units":
        space.count(density)  # a density that can't be is an error before any work
    searcher.start(problem)
    file, history = None, History(keep)
    if folder is not None:
        file = HistoryFile(Path(folder), _identity(problem, searcher, batch))
        history, state = file.open(space, keep)
        if state is not None:
            searcher.load_state_dict(state)
        elif len(history) and budget.left(len(history), history.seconds) != 0:
            file.close()
            name = type(searcher).__name__
            raise InputError(
                f"{folder}: holds an unfinished search ({len(history)} scorings), and {name} doesn't support resuming, "
                "since it keeps attributes outside of self.state; give another folder"
            )
    callbacks = list(callbacks)
    history.first = history.first or searcher.incumbent
    try:
        for trial in history:
            for callback in callbacks:
                callback(trial, history, searcher)
        _Loop(searcher, scoring, problem, history, file, batch, callbacks).run()
    finally:
        if file is not None:
            file.close()
        searcher.finish()
    return history


def _start_mask(
    start: Mask | Tensor | None, space: MaskSpace, density: Density, on_empty: OnEmpty, hold: Hold, *, up_to: bool
) -> Mask | None:
    """The mask that a search begins with, of a mask or a saliency (n_units,); None for none.

    Parameters
    ----------
    up_to : bool
        Whether it may keep less than the density says.

    Raises
    ------
    InputError
        If it doesn't fit the space or the density, or empties a layer that may not be empty.
    """
    if isinstance(start, Tensor):
        return space.top_k(start, density, on_empty=on_empty, hold=hold)
    if start is None:
        return None
    if start.space.fingerprint != space.fingerprint:
        raise InputError(f"start: a mask of a {start.space.describe()}; it doesn't fit this {space.describe()}")
    if on_empty != "allow" and start.empty_layers():
        raise InputError(
            f"start: keeps nothing of layer {start.empty_layers()[0]!r}; on_empty={on_empty!r} forbids that"
        )
    if hold != "units":
        kept = np.array(list(start.kept_per_layer().values()))
        if not space.fits(kept, density, hold):
            raise InputError(f"start: costs more than density {density} of the {hold}")
    elif start.n_kept > space.count(density) or (start.n_kept < space.count(density) and not up_to):
        raise InputError(f"start: keeps {start.n_kept} units, density {density} keeps {space.count(density)}")
    elif isinstance(density, Mapping):
        _check_layers(start, space, density, on_empty)
    return start


def _check_layers(start: Mask, space: MaskSpace, density: Density, on_empty: OnEmpty) -> None:
    """That a start keeps of every layer what its density says (a unit more or less, where emptied ones keep one)."""
    quotas = space.quotas(density)
    if on_empty != "allow" and not all(quotas):
        return
    for (name, kept), quota in zip(start.kept_per_layer().items(), quotas, strict=True):
        if kept != quota:
            raise InputError(f"start: keeps {kept} units of layer {name!r}, and its density keeps {quota}")


@dataclass
class _Loop:
    """A search that is going on."""

    searcher: Searcher
    scorer: Scoring
    problem: Problem
    history: History
    file: HistoryFile | None
    batch: int
    callbacks: list[Callback]

    def __post_init__(self) -> None:
        self._stride = max(1, (self.problem.budget.scorings or 20_000) // _LOOKS)
        self._saved, self._refreshed = time.monotonic(), len(self.history)
        self._telling = 0.0  # seconds of the last tell, which count for the trials that it led to

    def run(self) -> None:
        """Go on to the end of the budget."""
        budget, history = self.problem.budget, self.history
        while (left := budget.left(len(history), history.seconds)) != 0:
            self._refresh_if_due()
            began = time.perf_counter()
            proposals = self.searcher.ask(self.batch if left is None else min(self.batch, left))
            if not proposals:
                break
            proposing = (self._telling + time.perf_counter() - began) / len(proposals)
            scores = _score(self.scorer, proposals, history, self.problem)
            scores = [replace(score, seconds=round(score.seconds + proposing, 6)) for score in scores]
            before, scored = self.searcher.incumbent, time.perf_counter()
            self.searcher.tell(proposals, scores)
            self._telling = time.perf_counter() - scored
            self._record(proposals, scores, before)
        if self.file is not None and len(history):
            self.file.checkpoint(history, self._searcher_state())

    def _refresh_if_due(self) -> None:
        """Refresh the scorer when its time has come, and take a checkpoint then, if the last one is old."""
        every = self.scorer.refresh_every
        if len(self.history) - self._refreshed < (every or 1):
            return
        self._refreshed = len(self.history)
        if every is not None:
            self.scorer.refresh()
        if self.file is not None and time.monotonic() - self._saved > self.file.checkpoint_seconds:
            self.file.checkpoint(self.history, self._searcher_state())
            self._saved = time.monotonic()

    def _searcher_state(self) -> dict[str, Any] | None:
        return self.searcher.state_dict() if self.searcher.supports_resuming else None

    def _record(self, proposals: Sequence[Proposal], scores: Sequence[Score], before: Mask | None) -> None:
        """Write trials down, once the searcher knows them; ``before``: where it stood when it didn't."""
        history, searcher, after = self.history, self.searcher, self.searcher.incumbent
        place = next((i for i, proposal in enumerate(proposals) if proposal.mask is after), len(proposals) - 1)
        for i, (proposal, score) in enumerate(zip(proposals, scores, strict=True)):
            metrics = searcher.metrics()
            if len(history) % self._stride == 0 and (incumbent := searcher.incumbent) is not None:
                metrics |= _look(incumbent, history)
            trial = history.add(proposal.mask, score, metrics)
            if self.file is not None:
                gone = None if i != place else _gone(before, after, proposal)
                self.file.append(trial, gone, None if gone is None or after is proposal.mask else after)
            for callback in self.callbacks:
                callback(trial, history, searcher)


def _gone(before: Mask | None, after: Mask | None, proposal: Proposal) -> Move | None:
    """The move from one incumbent to the next, in O(radius) where it is the proposal's; None if it stayed."""
    if after is None or after is before:
        return None
    if proposal.mask is after and (before is None or before is proposal.base):
        return proposal.move
    return None if before is None else before.move_to(after)


def _score(scorer: Scoring, proposals: Sequence[Proposal], history: History, problem: Problem) -> list[Score]:
    """Scores of all proposals, with costs; a mask that was scored before, or stands there twice, is scored once.

    It is scored to the lowest of its thresholds: what settles that one settles the others.
    """
    scores: dict[int, Score] = {}
    fresh: dict[int, Proposal] = {}
    for proposal in proposals:
        twin = fresh.get(proposal.mask.hash)
        known = history.known_score(proposal.mask, proposal.threshold)
        if twin is not None:
            fresh[proposal.mask.hash] = replace(twin, threshold=_lowest(twin.threshold, proposal.threshold))
        elif known is not None and proposal.mask.hash not in scores:
            scores[proposal.mask.hash] = _repeated(known)
        elif known is None:
            fresh[proposal.mask.hash] = proposal
    new = scorer.score(list(fresh.values())) if fresh else []
    for (number, proposal), score in zip(fresh.items(), new, strict=True):
        scores[number] = score if problem.cost is None else _priced(problem, proposal.mask, score)
    given, seen = [], set()
    for proposal in proposals:
        score = scores[proposal.mask.hash]
        given.append(_repeated(score) if proposal.mask.hash in seen else score)
        seen.add(proposal.mask.hash)
    return given


def _priced(problem: Problem, mask: Mask, score: Score) -> Score:
    """The score with its mask's cost, and with the seconds that finding that out took."""
    began = time.perf_counter()
    priced = problem.priced(mask, score)
    return replace(priced, seconds=priced.seconds + time.perf_counter() - began)


def _lowest(one: float | None, other: float | None) -> float | None:
    """Of two thresholds; None, the wish for an exact score, is below all."""
    return None if one is None or other is None else min(one, other)


def _repeated(score: Score) -> Score:
    """The same score, for nothing but the searcher's own time."""
    return replace(score, seconds=0.0, images=0)


def _look(incumbent: Mask, history: History) -> dict[str, float]:
    """How far the incumbent is from the start and from the best, and the density of every layer."""
    look = {f"density/{name}": value for name, value in incumbent.densities().items()}
    if history.first is not None:
        look["hamming_start"] = incumbent.hamming(history.first)
    if history.has_best:
        assert history.best.mask is not None
        look["hamming_best"] = incumbent.hamming(history.best.mask)
    return look


def _instance(searcher: Searcher | str) -> Searcher:
    if isinstance(searcher, str):
        return SEARCHERS[searcher]()
    if isinstance(searcher, type):
        name = searcher.__name__
        raise InputError(f"searcher: {name} is a class; give an instance, {name}()")
    return searcher


def _check_cost(cost: Cost, searcher: Searcher, space: MaskSpace) -> None:
    if not searcher.supports_costs:
        able = [name for name, make in SEARCHERS.items() if make().supports_costs]
        raise InputError(f"cost: this {type(searcher).__name__} goes by the score alone; {', '.join(able)} weigh costs")
    if isinstance(cost, str):
        space.share(space.full(), cost)  # raises if the space doesn't know it


def _identity(problem: Problem, searcher: Searcher, batch: int) -> dict[str, object]:
    return {
        "space": problem.space.fingerprint,
        "searcher": repr(searcher) if is_dataclass(searcher) else type(searcher).__qualname__,
        "density": problem.density if isinstance(problem.density, float | int) else dict(problem.density),
        "budget": repr(problem.budget),
        "seed": problem.seed,
        "start": problem.start.hash if problem.start else None,
        "on_empty": problem.on_empty,
        "hold": problem.hold,
        "refined": problem.refine is not None,
        "cost": problem.cost if isinstance(problem.cost, str) else problem.cost is not None,
        "batch": batch,
        # By name: to the last bit, their values may depend on the number of threads.
        **({"saliencies": list(problem.saliencies)} if problem.saliencies else {}),
    }
