"""The scorer of a cell's masks: an objective on some examples, with the weights that masks are found at."""

import copy
from dataclasses import replace
from typing import Any

from torch import nn

from masksearch.experiment.cell import AUTO
from masksearch.experiment.context import CellContext
from masksearch.experiment.steps.retraining import calibration_of, repair_of, rewound_weights, training_plan
from masksearch.scoring import OBJECTIVES, Scorer, ShortTraining, signed_constants
from masksearch.utils.seeds import derive

__all__ = ["cell_scorer", "scored_network"]


def cell_scorer(
    context: CellContext,
    model: nn.Module,
    examples: Any,
    *,
    objective: str | None = None,
    steps: int | None = None,
    later: bool = False,
) -> Scorer | ShortTraining:
    """Return the scorer of masks for one run of a sweep, by the objective of its searches or by the given objective.

    Parameters
    ----------
    model : nn.Module
        With the weights that the mask is found at. Short trainings start from the weights and at the place in the
        learning rate schedule at which the retraining starts.
    steps : int, optional
        Optimiser steps of a short training; the sweep's if not given.
    later : bool
        Whether an earlier round has trained, so that the learning rate schedule is over.
    """
    cell, search = context.cell, context.settings.search
    objective = objective or context.settings.sweep.objective
    by = OBJECTIVES[objective].of_training
    if by is None:
        network = scored_network(context, model)
        row, calibration = OBJECTIVES[objective], None
        if row.reconstructs:
            calibration = calibration_of(context) if row.sequential else repair_of(context, network)
        return Scorer(network, context.space, examples, objective, calibration=calibration)
    network = copy.deepcopy(model)
    network.load_state_dict(rewound_weights(context, model.state_dict()))
    plan = training_plan(context, "end" if later or cell.find_at == AUTO else cell.find_at, cell.epochs)
    return ShortTraining(
        network,
        context.space,
        context.data.train,
        examples,
        plan.settings if search.training_lr is None else replace(plan.settings, lr=search.training_lr),
        by=by,
        steps=steps or search.training_steps,
        begin=plan.begin,
        # The training loss is that of the first steps of the very training that follows, in the same order.
        seed=derive(cell.seed, "retrain" if by == "train" else "short training"),
        augment=context.data.augment,
    )


def scored_network(context: CellContext, model: nn.Module) -> nn.Module:
    """Return ``model``; with weights = "signed_constant", a copy with the signs of weights times their layer's std."""
    constant = context.settings.scoring.weights == "signed_constant"
    return signed_constants(model, context.space) if constant else model
