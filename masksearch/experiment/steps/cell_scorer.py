"""The scorer of a cell's masks, and the scores of the mask that was found."""

import copy
from dataclasses import dataclass, replace

from torch import nn

from masksearch.core.mask import Mask
from masksearch.data import Split
from masksearch.experiment.cell import AUTO
from masksearch.experiment.context import CellContext
from masksearch.experiment.steps.retraining import rewound_weights, training_plan
from masksearch.scoring import OBJECTIVES, Scorer, ShortTraining, signed_constants
from masksearch.utils.seeds import derive

__all__ = ["MaskScores", "cell_scorer", "mask_scores", "scored_network"]


def cell_scorer(
    context: CellContext,
    model: nn.Module,
    examples: Split,
    *,
    objective: str | None = None,
    steps: int | None = None,
    later: bool = False,
) -> Scorer | ShortTraining:
    """The scorer of a cell's objective, or of another one, on some examples.

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
        return Scorer(scored_network(context, model), context.space, examples, objective)
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
    """The network that masks are scored on: ``model``, or one with constants of its weights' signs."""
    constant = context.settings.scoring.weights == "signed_constant"
    return signed_constants(model, context.space) if constant else model


@dataclass(frozen=True)
class MaskScores:
    """Objective and accuracy of a mask on the search examples and on the rest of the validation examples.

    The differences are the optimism gaps. No search has seen an example of the rest; but where the best masks were
    scored again, the rest chose among them.
    """

    search_score: float
    search_accuracy: float
    rest_score: float
    rest_accuracy: float

    @property
    def gap(self) -> float:
        """Search score minus rest score."""
        return self.search_score - self.rest_score

    @property
    def accuracy_gap(self) -> float:
        """Accuracy on the search examples minus accuracy on the rest."""
        return self.search_accuracy - self.rest_accuracy


def mask_scores(context: CellContext, model: nn.Module, mask: Mask, *, later: bool) -> MaskScores:
    """The scores of a mask for the weights of ``model``."""

    def score(examples: Split) -> float:
        return cell_scorer(context, model, examples, later=later)(mask).value

    def accuracy(examples: Split) -> float:
        return Scorer(scored_network(context, model), context.space, examples, "accuracy")(mask).value

    search, rest = context.data.search, context.data.rest
    no_examples = OBJECTIVES[context.settings.sweep.objective].images == 0
    search_score = score(search)
    rest_score = search_score if no_examples else score(rest)
    return MaskScores(search_score, accuracy(search), rest_score, accuracy(rest))
