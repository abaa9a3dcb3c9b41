"""Finding a cell's mask: by a search, or by a criterion, from the same weights and with the same scores beside it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masksearch.criteria import CRITERIA, balanced_batch, select
from masksearch.data import Data
from masksearch.experiment.cells import Cell
from masksearch.history import History
from masksearch.loop import search
from masksearch.mask import Mask
from masksearch.scoring import Scorer, signed_constants
from masksearch.searchers import Searcher
from masksearch.seeds import derive, torch_generator
from masksearch.spaces import NetworkSpace
from masksearch.training.record import Weights
from masksearch.trial import Budget, Trial

__all__ = ["Found", "find_mask"]


@dataclass(frozen=True)
class Found:
    """A mask, and what scoring says of it at the weights that it was found at."""

    mask: Mask
    metrics: dict[str, Any]
    seconds: float  # spent on scoring by the search; 0 for a criterion


def find_mask(
    cell: Cell,
    model: nn.Module,
    space: NetworkSpace,
    data: Data,
    initial: Weights,
    device: torch.device,
    folder: Path,
    on_trial: Callable[[Trial, History, Searcher], None],
) -> Found:
    """Find the mask of a cell.

    Parameters
    ----------
    model : nn.Module
        With the weights to find it at.
    initial : state dict
        The weights at initialisation, for criteria that compare with them.
    folder : Path
        Where a search keeps its history; an unfinished one goes on.
    on_trial : callable
        Called after every trial of a search.
    """
    sweep, scoring = cell.settings.sweep, cell.settings.scoring
    model.to(device)
    scored = signed_constants(model, space) if scoring.weights == "signed_constant" else model
    scorer = Scorer(scored, space, data.search, sweep.objective)
    if cell.searches:
        history = search(
            space,
            cell.searcher(),
            scorer,
            cell.density,
            Budget(sweep.budget, scoring.seconds),
            derive(cell.seed, "search"),
            on_empty=scoring.on_empty,
            hold=scoring.hold,
            folder=folder,
            callbacks=[on_trial],
        )
        mask, scorings, seconds = history.best.mask, len(history), history.seconds
        assert mask is not None
    else:
        mask, scorings, seconds = _by_criterion(cell, model, space, data, initial, device), 0, 0.0
    metrics = {"objective": sweep.objective, "scorings": scorings, **_gap(scorer, scored, mask, data, sweep.objective)}
    return Found(mask, metrics, seconds)


def _by_criterion(
    cell: Cell, model: nn.Module, space: NetworkSpace, data: Data, initial: Weights, device: torch.device
) -> Mask:
    scoring = cell.settings.scoring
    # One stream per seed, not per method: random masks and ties are paired over sparsities and with other sweeps.
    generator = torch_generator(cell.seed, "criterion", cell.method)
    batches = []
    if CRITERIA[cell.method].needs_batches:
        images = torch_generator(cell.seed, "criterion", "images")
        batches = [balanced_batch(data.train, scoring.images_per_class, images)]
    at_start = {name: tensor.to(device) for name, tensor in initial.items()}
    return select(
        cell.method,
        model,
        space,
        batches,
        cell.density,
        scope=scoring.scope,
        generator=generator,
        initial=at_start,
        on_empty=scoring.on_empty,
        hold=scoring.hold,
    )


def _gap(scorer: Scorer, model: nn.Module, mask: Mask, data: Data, objective: str) -> dict[str, float]:
    """Objective and accuracy on the search images and on the rest of val; the differences are the optimism gap."""
    on_search, on_rest = scorer(mask).value, Scorer(model, scorer.space, data.rest, objective)(mask).value
    if objective == "accuracy":
        accuracy_search, accuracy_rest = on_search, on_rest
    else:
        accuracy_search = Scorer(model, scorer.space, data.search)(mask).value
        accuracy_rest = Scorer(model, scorer.space, data.rest)(mask).value
    return {
        "search_score": on_search,
        "rest_score": on_rest,
        "gap": on_search - on_rest,
        "search_accuracy": accuracy_search,
        "rest_accuracy": accuracy_rest,
        "accuracy_gap": accuracy_search - accuracy_rest,
    }
