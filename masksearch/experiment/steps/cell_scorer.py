"""What scores a cell's masks, and what it says of the one that was found."""

import copy
from dataclasses import replace

from torch import nn

from masksearch.core.mask import Mask
from masksearch.data import Data, Split
from masksearch.experiment.cell import AUTO, Cell
from masksearch.experiment.steps.dense import DenseNetwork
from masksearch.experiment.steps.retraining import course, rewound_weights
from masksearch.scoring import OBJECTIVES, Scorer, ShortTraining, signed_constants
from masksearch.spaces import NetworkSpace
from masksearch.utils.seeds import derive

__all__ = ["cell_scorer", "gaps", "weights_scored"]


def cell_scorer(
    cell: Cell,
    model: nn.Module,
    space: NetworkSpace,
    images: Split,
    data: Data,
    dense: DenseNetwork,
    *,
    objective: str | None = None,
    steps: int | None = None,
    later: bool = False,
) -> Scorer | ShortTraining:
    """The scorer of a cell's objective, or of another one, on some images.

    Parameters
    ----------
    model : nn.Module
        With the weights that the mask is found at. Short trainings start from those that the retraining starts from,
        where it starts in the learning rate's schedule.
    steps : int, optional
        Of a short training, if not the sweep's.
    later : bool
        Whether an earlier round has trained, so that the learning rate's schedule is over.
    """
    objective = objective or cell.settings.sweep.objective
    by = OBJECTIVES[objective].of_training
    if by is not None:
        network = copy.deepcopy(model)
        network.load_state_dict(rewound_weights(cell, model.state_dict(), data, dense))
        found_at = "end" if later or cell.find_at == AUTO else cell.find_at
        plan = course(cell, found_at, cell.epochs, dense, len(data.train))
        lr = cell.settings.search.training_lr
        return ShortTraining(
            network,
            space,
            data.train,
            images,
            plan.settings if lr is None else replace(plan.settings, lr=lr),
            by=by,
            steps=steps or cell.settings.search.training_steps,
            begin=plan.begin,
            # Speed is seen in the first steps of the very training that follows; a loss after them, beside it.
            seed=derive(cell.seed, "retrain" if by == "train" else "short training"),
            augment=data.augment,
        )
    return Scorer(weights_scored(cell, model, space), space, images, objective)


def weights_scored(cell: Cell, model: nn.Module, space: NetworkSpace) -> nn.Module:
    """The network that masks are scored on: ``model``, or one with constants of its weights' signs."""
    return signed_constants(model, space) if cell.settings.scoring.weights == "signed_constant" else model


def gaps(
    cell: Cell, model: nn.Module, space: NetworkSpace, mask: Mask, data: Data, dense: DenseNetwork, *, later: bool
) -> dict[str, float]:
    """Objective and accuracy of a mask on the search images and on the rest of val, for the weights of ``model``.

    The differences are the optimism gaps. No search has seen an image of the rest; but where the best masks were scored
    again, it was on the rest.
    """
    found: dict[str, float] = {}
    imageless = OBJECTIVES[cell.settings.sweep.objective].images == 0
    for split, images in (("search", data.search), ("rest", data.rest)):
        if "search_score" in found and imageless:
            found["rest_score"] = found["search_score"]
        else:
            found[f"{split}_score"] = cell_scorer(cell, model, space, images, data, dense, later=later)(mask).value
        found[f"{split}_accuracy"] = Scorer(weights_scored(cell, model, space), space, images, "accuracy")(mask).value
    found["gap"] = found["search_score"] - found["rest_score"]
    found["accuracy_gap"] = found["search_accuracy"] - found["rest_accuracy"]
    return found
