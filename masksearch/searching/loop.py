"""The loop of a search: ask, score, tell, until the budget is spent; with repeats, checkpoints and the history."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from masksearch.core.amount import Amount, Density, Hold, OnEmpty
from masksearch.core.energy import Energy
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
from masksearch.core.space import MaskSpace
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.searching.budgets_of_folder import finished_part, keep_budget, parts_to_run
from masksearch.searching.history_store import HistoryFile, saved_budgets
from masksearch.searching.start_mask import start_mask
from masksearch.utils.errors import InputError, check_type, check_whole
from masksearch.utils.integrity import refusing
from masksearch.utils.locks import locked

__all__ = ["Callback", "search"]

Callback = Callable[[Trial, History, Searcher], None]
"""Function f(trial, history, searcher) -> None that :func:`search` calls after every scored mask (trial)."""

_COMPARISONS = 400  # per search: trials at which the incumbent is compared with start and best, in O(n_units)


def search(
    space: MaskSpace,
    searcher: Searcher | str,
    scorer: HasScore,
    density: Density | Amount | None = None,
    budget: int | Budget | None = None,
    seed: int = 0,
    *,
    sparsity: Density | None = None,
    start: Mask | Tensor | None = None,
    saliencies: Mapping[str, Tensor] | None = None,
    on_empty: OnEmpty | None = None,
    hold: Hold | None = None,
    refine: Refine | None = None,
    cost: Cost | None = None,
    energy: Energy | None = None,
    batch: int = 1,
    keep: int = 5,
    folder: str | Path | None = None,
    callbacks: Iterable[Callback] = (),
) -> History:
    """Search for the pruning mask of highest score, and return the history of all scored masks.

    Parameters
    ----------
    space : MaskSpace
        The masks to search.
    searcher : Searcher or str
        Proposes masks: a searcher, or a name in ``SEARCHERS`` for a searcher with default settings.
    scorer : object with ``score(proposals) -> scores``
        Scores masks; higher is better. A scorer with state between scorings also has ``refresh()`` and
        ``refresh_every``; see :class:`~masksearch.core.protocol.Scoring`.
    density : float, {layer name: float} or Amount, optional
        How much every mask keeps. Exactly one of ``density`` and ``sparsity`` is given.
    budget : int or Budget
        Scorings, seconds of proposing and scoring, or both. A larger budget than that of the search in ``folder``
        continues this search, as described below.
    seed : int
        Equal seeds give equal searches, except with a budget in seconds, a measured cost, or a shared Optuna study.
    sparsity : float or {layer name: float}, optional
        1 - density.
    start : Mask or float tensor (n_units,), optional
        Warm start: a mask, or a saliency whose top units make the mask.
    saliencies : mapping, optional
        Saliencies (n_units,) by name, for searchers that use them.
    on_empty : {"raise", "allow", "keep_one"}, optional
        Whether masks may empty a layer; see :class:`~masksearch.core.amount.Amount`. ``raise`` if left out.
    hold : {"units", "params", "macs"}, optional
        Quantity of which the density is a share; ``units`` if left out. In parameters or MACs, moves keep the number of
        units of the first mask, and no mask costs more than the density allows.
    refine : callable, optional
        How searchers that rank units (Optuna's) make a mask: ``f(saliency, rank) -> mask``, where ``rank(saliency)`` is
        the mask of the top units. By default, a mask has the top units.
    cost : str or callable, optional
        Search the Pareto front of score and cost, ``history.front``. ``"units"``, ``"params"`` or ``"macs"`` is counted
        as a share of the full mask's cost; a function ``f(mask)`` returns any other share. Masks then have any density
        up to ``density`` and keep at least one unit of every layer; a start may have any of these densities. It needs a
        searcher that ``supports_costs``: Optuna's, except CMA-ES.
    energy : Energy, optional
        Rates masks without scoring them, for searchers that need it (``energy_annealing``);
        :func:`masksearch.repair_energy` makes that of a network's filters.
    batch : int
        Number of masks that the searcher proposes at once.
    keep : int
        Number of best masks that the history keeps.
    folder : path, optional
        Folder of the history on disk. An unfinished search in it continues, to the same result as if it had never
        stopped. Only one process at a time can search in a folder.
    callbacks : iterable of callables
        ``f(trial, history, searcher)`` after every trial. A resumed search first calls them for the trials of earlier
        processes, with history and searcher in their present state. An exception ends the search; the trials before it
        are on disk.

    Returns
    -------
    History
        All trials; ``history.best_mask`` is the mask of highest score.

    Notes
    -----
    A search with a larger budget on the folder of a search first finishes the smaller budget, and then adds scorings up
    to the larger one. Schedules (temperature, radius) depend on the used share of a budget: after n of 1000 scorings,
    the share n / 1000, also if the first 500 scorings had a budget of their own and have ended with low temperatures.
    The result is therefore not that of one search of 1000 scorings, but two searches with the same budgets, 500 then
    1000, are equal, also if they were interrupted. The files in ``folder`` record all budgets. A call with one of the
    smaller budgets returns the finished history of this budget, without the later trials: a script with both calls
    can run again.

    Raises
    ------
    InputError
        If searcher, density, start, budget, scorer or cost don't fit; if another process searches in the folder; if the
        folder holds another search or one of a larger budget, or an unfinished one whose searcher doesn't support
        resuming.
    """
    searcher = _instance(searcher)
    check_whole("batch", batch, 1)
    check_whole("keep", keep, 1)
    if folder is not None:
        check_type("folder", folder, (str, Path), "the path of a folder")
    if density is None and sparsity is None:
        density = space.fixed_density
    amount = Amount.of(density, sparsity=sparsity, hold=hold, on_empty=on_empty).by_layer(space)
    if cost is not None:
        _check_cost(cost, searcher, space)
    mask = start_mask(start, space, amount, up_to=cost is not None)
    problem = Problem(space, amount, budget, seed, mask, saliencies, refine=refine, cost=cost, energy=energy)
    if amount.hold == "units":
        amount.count(space)  # an impossible density is an error before any work
    run, history = partial(_run, searcher, as_scoring(scorer), batch, list(callbacks)), History(keep)
    searcher.start(problem)
    if folder is None:
        return run(problem, history, None)
    path = Path(folder)
    with locked(path / ".lock", f"folder {path}", "wait for it, or give another folder", reentrant=True):
        saved = saved_budgets(path)
        if finished := finished_part(problem, saved, path):
            part, kept = finished
            searcher.start(part)
            return run(part, history, kept)
        for part in parts_to_run(problem, saved, path):
            if part is not problem:
                searcher.start(part)
            if saved and part.earlier_budgets == saved:
                keep_budget(path, len(saved))
            history = run(part, history, path)
        return history


def _run(
    searcher: Searcher,
    scorer: Scoring,
    batch: int,
    callbacks: list[Callback],
    problem: Problem,
    history: History,
    folder: Path | None,
) -> History:
    """Run a search that has started, or continue the search in ``folder``, to the end of its budget.

    The callbacks have been called for the trials of ``history``.
    """
    n_called, file = len(history), None
    if folder is not None:
        file = HistoryFile(folder, {"searcher": searcher.identity(), "batch": batch, **problem.identity()})
        history, state = file.open(problem.space, history.keep)
        if state is not None:
            with refusing(folder / "search.safetensors", f"remove the folder {folder} and run again"):
                searcher.load_state_dict(state)
        elif len(history) and problem.budget.left(len(history), history.seconds) != 0:
            file.close()
            name = type(searcher).__name__
            raise InputError(
                f"{folder}: holds an unfinished search ({len(history)} scorings), and {name} doesn't support resuming, "
                "since it keeps attributes outside of self.state; give another folder"
            )
        if len(history) and scorer.refresh_every is not None:
            scorer.refresh()  # it may have state of an earlier budget, which it has not in another process
    history.first = history.first or searcher.incumbent
    try:
        for trial in history.trials[n_called:]:
            for callback in callbacks:
                callback(trial, history, searcher)
        _Loop(searcher, scorer, problem, history, file, batch, callbacks).run()
    finally:
        if file is not None:
            file.close()
        searcher.finish()
    return history


@dataclass
class _Loop:
    """The state of a running search."""

    searcher: Searcher
    scorer: Scoring
    problem: Problem
    history: History
    file: HistoryFile | None
    batch: int
    callbacks: list[Callback]

    def __post_init__(self) -> None:
        self._stride = max(1, (self.problem.budget.scorings or 20_000) // _COMPARISONS)
        self._saved, self._refreshed = time.monotonic(), len(self.history)
        self._telling = 0.0  # seconds of the last tell; they count as proposing time of the next trials

    def run(self) -> None:
        """Run to the end of the budget, or until the searcher has no more proposals."""
        budget, history = self.problem.budget, self.history
        n_before = len(history)
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
        if self.file is not None and len(history) > n_before:
            self.file.checkpoint(history, self._searcher_state())

    def _refresh_if_due(self) -> None:
        """Refresh the scorer if a refresh is due, and write a checkpoint then if the last one is old."""
        every = self.scorer.refresh_every
        if len(self.history) - self._refreshed < (every or 1):
            return
        self._refreshed = len(self.history)
        if every is not None:
            self.scorer.refresh()
        if self.file is not None and time.monotonic() - self._saved > self.file.checkpoint_seconds:
            self.file.checkpoint(self.history, self._searcher_state())
            self._saved = time.monotonic()

    def _searcher_state(self) -> dict[str, object] | None:
        return self.searcher.state_dict() if self.searcher.supports_resuming else None

    def _record(self, proposals: Sequence[Proposal], scores: Sequence[Score], before: Mask | None) -> None:
        """Append the trials to the history, after the searcher got their scores.

        ``before`` is the searcher's incumbent before that. The incumbent's new mask belongs to one of the proposals:
        the row of that proposal gets the move.
        """
        history, searcher, after = self.history, self.searcher, self.searcher.incumbent
        hashes = [proposal.mask.hash for proposal in proposals]
        place = hashes.index(after.hash) if after is not None and after.hash in hashes else len(proposals) - 1
        for i, (proposal, score) in enumerate(zip(proposals, scores, strict=True)):
            metrics = searcher.metrics()
            if len(history) % self._stride == 0 and (incumbent := searcher.incumbent) is not None:
                metrics |= _comparison(incumbent, history)
            trial = history.add(proposal.mask, score, metrics)
            if self.file is not None:
                move = None if i != place else _incumbent_move(before, after, proposal)
                self.file.append(trial, move, after)
            for callback in self.callbacks:
                callback(trial, history, searcher)


def _incumbent_move(before: Mask | None, after: Mask | None, proposal: Proposal) -> Move | None:
    """The move from one incumbent to the next, in O(radius) if it is the proposal's; None if the incumbent stayed."""
    if after is None or (before is not None and after.hash == before.hash):
        return None
    if proposal.mask.hash == after.hash and (before is None or before.hash == proposal.base.hash):
        return proposal.move
    return None if before is None else before.move_to(after)


def _score(scorer: Scoring, proposals: Sequence[Proposal], history: History, problem: Problem) -> list[Score]:
    """Scores of all proposals, with costs. A mask that occurs twice, or was scored before, is not scored again.

    Of the thresholds of a mask that occurs twice, the lowest counts: a bound below it is below the others, too.
    """
    scores: dict[object, Score] = {}
    fresh: dict[object, Proposal] = {}
    for proposal in proposals:
        key = _key(proposal)
        twin = fresh.get(key)
        known = history.known_score(proposal.mask, proposal.threshold) if proposal.counts else None
        if twin is not None:
            fresh[key] = replace(twin, threshold=_lowest(twin.threshold, proposal.threshold))
        elif known is not None and key not in scores:
            scores[key] = _repeated(known)
        elif known is None:
            fresh[key] = proposal
    new = scorer.score(list(fresh.values())) if fresh else []
    for (key, proposal), score in zip(fresh.items(), new, strict=True):
        scores[key] = score if problem.cost is None else _priced(problem, proposal.mask, score)
    given, seen = [], set()
    for proposal in proposals:
        key = _key(proposal)
        score = scores[key] if proposal.counts else replace(scores[key], counts=False)
        given.append(_repeated(score) if key in seen else score)
        seen.add(key)
    return given


def _key(proposal: Proposal) -> object:
    """The mask, and how it is scored: proposals of equal keys get one scoring."""
    return proposal.mask.hash if proposal.counts else (proposal.mask.hash, proposal.share, proposal.probe)


def _priced(problem: Problem, mask: Mask, score: Score) -> Score:
    """The score with its mask's cost; the seconds that the cost took are added to the score's seconds."""
    began = time.perf_counter()
    priced = problem.priced(mask, score)
    return replace(priced, seconds=priced.seconds + time.perf_counter() - began)


def _lowest(one: float | None, other: float | None) -> float | None:
    """The lower of two thresholds; None, which asks for an exact score, is the lowest."""
    return None if one is None or other is None else min(one, other)


def _repeated(score: Score) -> Score:
    """The score of a repeated mask: no seconds of scoring and no images."""
    return replace(score, seconds=0.0, images=0)


def _comparison(incumbent: Mask, history: History) -> dict[str, float]:
    """Metrics of the incumbent: the density of every layer, and the Hamming distances to the start and to the best."""
    metrics = {f"density/{name}": value for name, value in incumbent.densities().items()}
    if history.first is not None:
        metrics["hamming_start"] = incumbent.hamming(history.first)
    if history.has_best:
        assert history.best.mask is not None
        metrics["hamming_best"] = incumbent.hamming(history.best.mask)
    return metrics


def _instance(searcher: Searcher | str) -> Searcher:
    if isinstance(searcher, str):
        return SEARCHERS[searcher]()
    if isinstance(searcher, type):
        name = searcher.__name__
        raise InputError(f"searcher: {name} is a class; give an instance, {name}()")
    if not isinstance(searcher, Searcher):
        raise InputError(
            f"searcher: a {type(searcher).__name__}; make it a subclass of ms.searchers.Searcher, "
            "which needs only ask and tell"
        )
    return searcher


def _check_cost(cost: Cost, searcher: Searcher, space: MaskSpace) -> None:
    if not searcher.supports_costs:
        able = [name for name, make in SEARCHERS.items() if make().supports_costs]
        raise InputError(f"cost: this {type(searcher).__name__} considers only scores; {', '.join(able)} support costs")
    if isinstance(cost, str):
        space.share(space.full(), cost)  # raises an error if the space can't count this cost
