"""Conflicts between settings of different groups, as messages of errors."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

from masksearch.criteria import CRITERIA
from masksearch.experiment.identity import changed_fields
from masksearch.experiment.settings.schedule_settings import parse_rewind
from masksearch.experiment.settings.search_settings import USUAL_START, split_method
from masksearch.schedules import SCHEDULES
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS
from masksearch.spaces import REMOVED, UNITS, ranked_units
from masksearch.utils.errors import InputError

if TYPE_CHECKING:
    from masksearch.experiment.settings.all_settings import Settings

_ONE_ROUND = "a schedule without rounds, as one_shot"
_SOURCES = "saliencies, warm_start or finalists"


def check_conflicts(settings: Settings) -> None:
    """Raise an InputError if two settings of a sweep do not fit together; the message names the first such pair."""
    conflicts = (
        _of_moments,
        _of_granularity,
        _of_whole_parts,
        _of_caps,
        _of_connected,
        _of_objectives,
        _of_scorers,
        _of_gradual,
        _of_optuna,
        _of_schedules,
        _of_blockwise,
        _of_distillation,
        _of_train_fn,
    )
    for message in chain(*(find(settings) for find in conflicts)):
        raise InputError(message)


def _objectives(settings: Settings) -> dict[str, str]:
    """{name of the setting: objective} of the first and the second scoring."""
    again = settings.search.rescore_by
    return {"objective": settings.sweep.objective} | ({} if again is None else {"rescore_by": again})


def _methods(settings: Settings) -> list[str]:
    """Names of the methods, without their moments."""
    return [split_method(method)[0] for method in settings.sweep.methods]


def _has_rounds(settings: Settings) -> bool:
    """Whether a schedule prunes in several rounds."""
    return any(SCHEDULES[name].rounds > 1 for name in settings.schedules.schedule)


def _of_moments(settings: Settings) -> Iterator[str]:
    known = [source.moment for source in settings.search.sources if source.moment]
    for moment in (*settings.sweep.moments, *settings.schedules.rewind_to, *known):
        parsed = parse_rewind(moment)
        if isinstance(parsed, str):
            continue
        if parsed.unit == "ep" and parsed.count > settings.train.epochs:
            yield f"find_at or rewind_to: {moment} is longer than the training of {settings.train.epochs}ep"
        if parsed.best or str(parsed) not in ("0", "end"):
            if settings.sweep.dense != "auto":
                yield f"find_at or rewind_to: {moment}; a dense network from a file has only the moments 0 and end"
            if settings.sweep.train_fn is not None:
                yield f"find_at or rewind_to: {moment}; with train_fn there are only the moments 0 and end"
    if settings.sweep.moments and all(SCHEDULES[name].has_own_moment for name in settings.schedules.schedule):
        moments, names = " ".join(settings.sweep.moments), " ".join(settings.schedules.schedule)
        yield f"find_at: {moments}; {names} decides when masks are found: leave find_at out"


def _of_granularity(settings: Settings) -> Iterator[str]:
    granularity, scoring = settings.sweep.granularity, settings.scoring
    if scoring.layers != "all" and granularity in REMOVED:
        yield f"layers: {scoring.layers}; it chooses layers of weight masks, not of {granularity} masks: leave it out"
    if scoring.hold != "units" and granularity not in REMOVED:
        yield f"hold: {scoring.hold}; all weights cost the same, so weight masks hold units: leave hold out"
    for name, objective in _objectives(settings).items():
        if granularity != "filter" and OBJECTIVES[objective].of_filters is not None:
            yield f"{name}: {objective}; it scores filter masks only, so granularity must be filter"
    for source in settings.search.sources:
        allowed = CRITERIA[source.name].granularities
        if ranked_units(granularity) not in allowed:
            yield (
                f"{_SOURCES}: {source.name} ranks {' and '.join(allowed)} units only, and granularity is "
                f"{granularity}: give another criterion"
            )


def _of_whole_parts(settings: Settings) -> Iterator[str]:
    """Yield conflicts with blocks and with N:M masks, whose layers can't have any density."""
    granularity, layers = settings.sweep.granularity, " ".join(settings.sweep.layer_sparsity)
    if granularity in ("weight", "filter"):
        return
    if layers:
        yield f"layer_sparsity: {layers}; layers of {UNITS[granularity]} have no sparsity of their own: leave it out"
    if settings.scoring.scope == "erk" and granularity != "block":
        yield f"scope: erk; layers of {UNITS[granularity]} have no densities of their own: leave scope out"
    names = [name for name in settings.schedules.schedule if SCHEDULES[name].rounds > 1 or SCHEDULES[name].changes]
    if names and granularity == "nm":
        yield f"schedule: {names[0]} prunes step by step, and 2:4 masks have one density: give {_ONE_ROUND}"
    gradual = [text for text in settings.search.criteria if "@gradual" in text]
    if gradual and granularity == "nm":
        yield f"{_SOURCES}: {gradual[0]} prunes step by step, and 2:4 masks have one density: leave @gradual out"
    searches = [name for name in _methods(settings) if name in SEARCHERS]
    if searches and granularity == "union" and _has_rounds(settings):
        yield f"schedule: {searches[0]} searches blocks and filters in one round only: give {_ONE_ROUND}"


def _of_caps(settings: Settings) -> Iterator[str]:
    capped, search = settings.sweep.capped, settings.search
    if capped is None:
        return
    flag = f"max_{capped}"
    if settings.scoring.hold not in ("units", settings.hold):
        yield f"hold: {settings.scoring.hold}; {flag} holds {settings.hold}, so leave hold out"
    if settings.sweep.layer_sparsity:
        layers = " ".join(settings.sweep.layer_sparsity)
        yield f"layer_sparsity: {layers}; {flag} leaves layers free, so give one of the two only"
    fronts = [name for name, make in SEARCHERS.items() if make().supports_costs]
    for name in _methods(settings):
        if name not in fronts:
            if capped == "latency":
                yield f"{flag}: {name} can't bound the latency; {' '.join(fronts)} can"
            continue
        if _has_rounds(settings):
            yield f"{flag}: {name} searches a Pareto front in one round only: give {_ONE_ROUND}"
        if search.finalists:
            yield f"finalists: {' '.join(search.finalists)}; with {flag}, masks come from a Pareto front: leave it out"
        if search.warm_start not in (None, USUAL_START):
            yield f"warm_start: {search.warm_start}; with {flag} {name} starts at several costs: give saliencies"


def _of_connected(settings: Settings) -> Iterator[str]:
    if not settings.scoring.connected:
        return
    if settings.sweep.granularity in REMOVED:
        yield f"connected: it is for weights, not for {UNITS[settings.sweep.granularity]}; granularity must be weight"
    if settings.sweep.granularity == "nm":
        yield "connected: it replaces weights anywhere, which breaks 2:4 patterns; granularity must be weight"
    ranking = [name for name, make in SEARCHERS.items() if make().ranks_units]
    for name in _methods(settings):
        if name not in CRITERIA and name not in ranking:
            yield f"connected: {name} doesn't rank units; criteria and {', '.join(ranking)} do"
        if name not in CRITERIA and _has_rounds(settings):
            yield f"connected: {name} searches connected masks in one round only: give {_ONE_ROUND}"
    if any(SCHEDULES[name].changes for name in settings.schedules.schedule):
        names = " ".join(settings.schedules.schedule)
        yield f"connected: masks of {names} change during training, and may disconnect: give another schedule"


def _of_objectives(settings: Settings) -> Iterator[str]:
    objective, search = settings.sweep.objective, settings.search
    training = [name for name in _objectives(settings).values() if OBJECTIVES[name].of_training is not None]
    if settings.scoring.weights != "own" and training:
        yield f"weights: {settings.scoring.weights}; {training[0]} trains the masked networks' own weights: give own"
    if search.training_lr is not None and not training:
        able = " or ".join(name for name, row in OBJECTIVES.items() if row.of_training is not None)
        yield f"training_lr: {search.training_lr}; neither objective nor rescore_by is {able}: leave it out"
    same = (search.rescore_by or objective) == objective
    longer = OBJECTIVES[objective].of_training is not None and search.rescore_steps is not None
    if OBJECTIVES[objective].images == 0 and search.rescores and same and not longer:
        yield (
            f"rescore: {search.rescore}; {objective} uses no validation examples, so other examples give "
            "the same scores; name another objective as rescore_by"
        )


def _of_scorers(settings: Settings) -> Iterator[str]:
    search, executor = settings.search, settings.run.executor
    if search.scorers > 1 and search.scorer_order == "fixed" and search.proposals < search.scorers:
        yield (
            f"scorers: {search.scorers} with proposals {search.proposals}; masks of one step are scored at the same "
            f"time, so give {search.scorers} proposals or more, or scorer_order as_finished"
        )
    if search.scorers > 1 and executor.startswith("processes"):
        yield f"scorers: {search.scorers} with executor {executor}, which can't start others: give executor inline"


def _of_gradual(settings: Settings) -> Iterator[str]:
    names = " ".join(text for text in settings.search.criteria if "@gradual" in text)
    if names and settings.sweep.capped is not None:
        yield f"{_SOURCES}: {names}; with max_{settings.sweep.capped} there is no single density: leave @gradual out"
    if names and settings.sweep.layer_sparsity:
        layers = " ".join(settings.sweep.layer_sparsity)
        yield (
            f"{_SOURCES}: {names}; gradual pruning follows one density, and layer_sparsity is {layers}: give "
            "one of the two only"
        )


def _of_optuna(settings: Settings) -> Iterator[str]:
    own, capped = settings.optuna, settings.sweep.capped
    named = [name for name in _methods(settings) if name in SEARCHERS and SEARCHERS[name]().settings_group == "optuna"]
    if own.study is not None and capped is not None:
        yield f"optuna.study: {own.study!r}; with max_{capped} a study can't be shared: leave study out"
    if own.study is not None and named and _has_rounds(settings):
        yield (
            f"optuna.study: {own.study!r}; in rounds, {named[0]} searches what earlier rounds kept, which differs "
            f"between sweeps: leave study out, or give {_ONE_ROUND}"
        )
    if own.parametrisation == "mixture" and not settings.search.saliencies and named:
        yield "optuna.parametrisation: mixture; give the criteria to mix as saliencies"


def _of_schedules(settings: Settings) -> Iterator[str]:
    granularity, dense, layers = settings.sweep.granularity, settings.sweep.dense, settings.sweep.layer_sparsity
    others = [method for method in _methods(settings) if method not in CRITERIA]
    asked, trained, repair = settings.schedules.retrain_epochs, settings.train.epochs, settings.schedules.reconstruct
    for moment in settings.schedules.rewind_to if repair != "off" else ():
        if moment == "random" or str(parse_rewind(moment)) == "0":
            yield f"reconstruct: {repair}; it repairs trained weights, not rewind_to {moment}: give none, lr or end"
    for name in settings.schedules.schedule:
        row = SCHEDULES[name]
        if row.changes in ("set", "rigl") and granularity in REMOVED:
            yield f"schedule: {name} regrows weights, and granularity is {granularity}: give granularity weight"
        if (row.changes == "ramp" or row.detects) and others:
            yield f"schedule: {name} ranks units repeatedly, and {others[0]} is no criterion: give criteria"
        if row.changes == "ramp" and layers:
            yield f"layer_sparsity: {' '.join(layers)}; {name} follows one density: leave layer_sparsity out"
        if row.changes == "ramp" and not (trained if asked is None else asked):
            yield f"schedule: {name} prunes while it retrains, and retraining has no epochs: give retrain_epochs"
        if row.changes and repair != "off":
            yield f"reconstruct: {repair}; {name} changes masks while it trains: give another schedule"
        if row.detects and not trained:
            yield f"schedule: {name} watches the dense training, and epochs is 0: give 1 or more"
        if row.detects and dense != "auto":
            yield f"schedule: {name} watches the dense training, and dense is {dense}: give auto"


def _of_blockwise(settings: Settings) -> Iterator[str]:
    granularity, swaps, asked = settings.sweep.granularity, settings.scoring.channel_swaps, settings.schedules
    blockwise = asked.reconstruct == "blockwise"
    if swaps and not (blockwise and granularity == "nm"):
        yield f"channel_swaps: {swaps}; it is for 2:4 masks: give granularity nm and reconstruct blockwise"
    for name in _methods(settings) if swaps else ():
        if name not in CRITERIA or CRITERIA[name].needs_initial:
            yield f"channel_swaps: {swaps}; {name} can't rank reordered channels: leave channel_swaps out"
    if not blockwise:
        return
    if granularity in REMOVED:
        yield f"reconstruct: blockwise; it prunes weights, and granularity is {granularity}: give weight or nm"
    if settings.scoring.layers != "all":
        yield f"layers: {settings.scoring.layers}; reconstruct blockwise prunes all layers of blocks: leave layers out"
    if settings.scoring.connected:
        yield "connected: reconstruct blockwise chooses other weights than the connected ones: leave connected out"
    if _has_rounds(settings):
        yield f"reconstruct: blockwise; it prunes in one round: give {_ONE_ROUND}"
    for moment in asked.rewind_to:
        if moment not in ("none", "lr"):
            yield f"rewind_to: {moment}; reconstruct blockwise updates the weights of find_at: give none or lr"
    if "shuffle" in asked.control:
        yield "control: shuffle; reconstruct blockwise chooses the weights itself: leave shuffle out"


def _of_distillation(settings: Settings) -> Iterator[str]:
    weights = settings.schedules.retrain_distill or (settings.train.distill,)
    temperatures = settings.schedules.retrain_temperature
    if temperatures and not any(weights):
        given = " ".join(f"{value:g}" for value in temperatures)
        yield f"retrain_temperature: {given}; there is no distillation: give retrain_distill or train.distill, above 0"


def _of_train_fn(settings: Settings) -> Iterator[str]:
    function, search = settings.sweep.train_fn, settings.search
    if function is None:
        return
    needs = "needs masksearch's own training loop"
    for name in settings.schedules.schedule:
        row = SCHEDULES[name]
        if row.changes or row.detects or row.bn_l1:
            yield f"train_fn: {function}; schedule {name} {needs}: give another schedule, or leave train_fn out"
    for setting, objective in _objectives(settings).items():
        if OBJECTIVES[objective].of_training is not None:
            yield f"train_fn: {function}; {setting} {objective} {needs}: give another {setting}, or leave train_fn out"
    for text in search.criteria:
        if "@gradual" in text:
            yield f"train_fn: {function}; {text} {needs}: leave @gradual or train_fn out"
    own = ("retrain_lr", "retrain_distill", "retrain_temperature", "save_at")
    ignored = [f"train.{name}" for name in changed_fields(settings.train) if name != "epochs"]
    ignored += [f"schedules.{name}" for name in own if getattr(settings.schedules, name)]
    if ignored:
        yield f"train_fn: {function}; it gets the number of epochs only: leave {', '.join(ignored)} out"
