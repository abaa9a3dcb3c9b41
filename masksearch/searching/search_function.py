"""The loop of a search: ask, score, tell, until the budget is spent; with repeats, checkpoints and the history."""

import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from masksearch.core.density_allocation import Amount, Density, Hold, OnEmpty
from masksearch.core.energy_protocol import Energy
from masksearch.core.history import History
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Budget, Cost, Problem, Refine
from masksearch.core.scorer_protocols import HasScore, ParallelScoring, Scoring, as_scoring, data_digest
from masksearch.core.space import MaskSpace
from masksearch.searchers import SEARCHERS, Searcher
from masksearch.searching.asynchronous_loop import LateLoop
from masksearch.searching.continued_budgets import finished_part, keep_budget, parts_to_run
from masksearch.searching.history_store import EXAMPLES, HistoryFile, saved_budgets
from masksearch.searching.start_mask import start_mask
from masksearch.searching.trial_loop import Callback, TrialLoop
from masksearch.utils.errors import InputError, check_type, check_whole
from masksearch.utils.integrity import folder_remedy, refusing
from masksearch.utils.locks import locked
from masksearch.utils.progress import Steps, steps


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
    progress: bool | Steps = True,
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
        ``refresh_every``; see :class:`~masksearch.core.scorer_protocols.Scoring`. Several workers of
        :class:`~masksearch.ParallelScorer` score at the same time; they end with the search.
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
        Whether masks may empty a layer; see :class:`~masksearch.Amount`. ``raise`` if left out.
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
        Number of masks that the searcher proposes at once. It is at least the number of workers of a parallel scorer
        in fixed order, and not used where scores come in as they are finished.
    keep : int
        Number of best masks that the history keeps.
    folder : path, optional
        Folder of the history on disk. An unfinished search in it continues, to the same result as if it had never
        stopped. Only one process at a time can search in a folder. A search on other examples does not continue: a
        digest of the examples of the scorer is compared.
    callbacks : iterable of callables
        ``f(trial, history, searcher)`` after every trial. A resumed search first calls them for the trials of earlier
        processes, with history and searcher in their present state. An exception ends the search; the trials before it
        are on disk.
    progress : bool
        Whether to show the number of scorings, the best score and the time left, in a terminal or a notebook.

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
    1000, are equal, also if they were interrupted. ``history.budgets`` and the files in ``folder`` name all budgets. A
    call with one of the smaller budgets returns the finished history of this budget, without the later trials: a script
    with both calls can run again.

    Raises
    ------
    InputError
        If searcher, density, start, budget, scorer or cost don't fit; if another process searches in the folder; if the
        folder holds another search, one on other examples, one of a larger budget, or an unfinished one whose searcher
        doesn't support resuming.
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
    turns, history = _Turns.of(as_scoring(scorer), searcher, batch), History(keep)
    searcher.start(problem)
    with ExitStack() as stack:
        if isinstance(scorer, ParallelScoring):
            stack.callback(scorer.close)
        line = stack.enter_context(steps(progress))
        run = partial(_run, searcher, turns, [*callbacks, *_shown(line, problem.budget)])
        if folder is None:
            return run(problem, history, None)
        path = Path(folder)
        lock = locked(path / ".lock", f"folder {path}", "wait for it, or give another folder", reentrant=True)
        stack.enter_context(lock)
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


def _shown(line: Steps, budget: Budget) -> list[Callback]:
    """Show a new step, and return the callback that shows its progress; no callback if the line is hidden."""
    line.begin("searching")

    def show(trial: object, history: History, searcher: object) -> None:
        best = f", best score {history.best_score:.4g}" if history.has_best else ""
        scored = f"{len(history)}/{budget.scorings}" if budget.scorings else f"{len(history)}"
        line.reach(budget.spent(len(history), history.seconds), f"{scored} masks scored{best}")

    return [] if line.disable else [show]


@dataclass(frozen=True)
class _Turns:
    """Who scores the masks of a search, how many are proposed at once, and whether scores come in as they finish."""

    scorer: Scoring
    batch: int
    late: bool = False

    @classmethod
    def of(cls, scorer: Scoring, searcher: Searcher, batch: int) -> "_Turns":
        """Return how many masks a search proposes at once, and whether their scores come in a fixed order."""
        if not isinstance(scorer, ParallelScoring):
            return cls(scorer, batch)
        if scorer.order == "as_finished":
            if searcher.supports_late_scores:
                return cls(scorer, 1, late=True)
            warnings.warn(
                f"searcher: {type(searcher).__name__} needs the scores in the order of its proposals; its search runs "
                f"in fixed order, with {max(batch, scorer.workers)} masks at once",
                stacklevel=3,
            )
            return cls(scorer, max(batch, scorer.workers))
        if batch < scorer.workers:
            raise InputError(
                f"batch: {batch} with {scorer.workers} workers in fixed order, where the masks of one batch are scored "
                f"at the same time; give batch={scorer.workers} or more"
            )
        return cls(scorer, batch)

    def identity(self) -> dict[str, object]:
        """Return the number of masks proposed at once and the order of scores, as a dict that identifies a search."""
        return {"batch": self.batch, **({"order": "as_finished"} if self.late else {})}


def _run(
    searcher: Searcher,
    turns: _Turns,
    callbacks: list[Callback],
    problem: Problem,
    history: History,
    folder: Path | None,
) -> History:
    """Run a search that has started, or continue the search in ``folder``, to the end of its budget.

    The callbacks have been called for the trials of ``history``.
    """
    n_called, file, scorer = len(history), None, turns.scorer
    if folder is not None:
        digest = data_digest(scorer)
        examples = {} if digest is None else {EXAMPLES: digest}
        identity = {"searcher": searcher.identity(), **turns.identity(), **problem.identity(), **examples}
        file = HistoryFile(folder, identity)
        history, state = file.open(problem.space, history.keep)
        if state is not None:
            with refusing(folder / "search.safetensors", folder_remedy(folder)):
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
    history.budgets = (*problem.earlier_budgets, problem.budget)
    history.first = history.first or searcher.incumbent
    try:
        for trial in history.trials[n_called:]:
            for callback in callbacks:
                callback(trial, history, searcher)
        if isinstance(scorer, ParallelScoring) and problem.budget.left(len(history), history.seconds) != 0:
            scorer.start(problem.space)
        if turns.late and isinstance(scorer, ParallelScoring):
            LateLoop(searcher, scorer, problem, history, file, turns.batch, callbacks).run()
        else:
            TrialLoop(searcher, scorer, problem, history, file, turns.batch, callbacks).run()
    finally:
        if file is not None:
            file.close()
        searcher.finish()
    return history


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
