"""The second scoring of a search's best masks, its start and criteria's masks, on examples that no search has seen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from masksearch.core.mask import Mask
from masksearch.experiment.context import CellContext
from masksearch.experiment.steps.cell_scorer import cell_scorer
from masksearch.experiment.steps.search_inputs import SearchInputs
from masksearch.experiment.sweep_callback import SweepCallback


@dataclass(frozen=True)
class Chosen:
    """Result of a second scoring: the best mask, all second scores, and the criterion that made the mask, if any."""

    mask: Mask
    scores: Mapping[str, float] = field(default_factory=dict)  # "search 1", ... and criteria -> second score
    criterion: str | None = None  # None: the mask is the search's


def choose_mask(
    context: CellContext,
    model: nn.Module,
    masks: Sequence[Mask],
    inputs: SearchInputs,
    callback: SweepCallback,
    *,
    later: bool,
) -> Chosen:
    """Score the best masks of a search, and masks of criteria, a second time; return the best mask and all scores.

    Without masks to compare, the choice is the search's best one, and nothing is scored. The second scoring uses
    validation examples that the search has not seen.
    """
    settings = context.settings.search
    candidates = _candidates(context, masks, inputs)
    if len(candidates) < 2:
        return Chosen(masks[0])
    scorer = cell_scorer(
        context, model, context.data.rest, objective=settings.rescore_by, steps=settings.rescore_steps, later=later
    )
    callback.rescoring_begins(context.cell, len(candidates))
    compared, values = list(candidates), []
    for begin in range(0, len(compared), settings.proposals):
        for score in scorer.score(compared[begin : begin + settings.proposals]):
            callback.rescored(context.cell, score)
            values.append(-math.inf if math.isnan(score.value) else score.value)
    criteria = list(candidates.values())
    best = values.index(max(values))
    names = [criterion or f"search {place}" for place, criterion in enumerate(criteria, start=1)]
    finite = {name: value for name, value in zip(names, values, strict=True) if math.isfinite(value)}
    return Chosen(compared[best], finite, criteria[best])


def _candidates(context: CellContext, masks: Sequence[Mask], inputs: SearchInputs) -> dict[Mask, str | None]:
    """Return {mask: the criterion that it is from, None for the search's}; equal masks are compared once."""
    settings = context.settings.search
    finalists = dict(inputs.finalists)
    if settings.rescore_by is not None and settings.warm_start is not None and inputs.start is not None:
        finalists = {settings.warm_start: inputs.start, **finalists}
    candidates: dict[Mask, str | None] = dict.fromkeys(masks[: settings.rescore])
    for criterion, mask in finalists.items():
        candidates.setdefault(mask, criterion)
    return candidates
