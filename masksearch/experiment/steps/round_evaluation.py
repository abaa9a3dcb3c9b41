"""A look at a round that is over: its mask at all moments that are published, and what the smaller network costs."""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.core.protocol import FOREIGN_TRIALS
from masksearch.data import Data
from masksearch.experiment.cell import Cell
from masksearch.experiment.steps.cell_scorer import gaps
from masksearch.experiment.steps.dense import DenseNetwork
from masksearch.experiment.steps.mask_finder import MaskResult
from masksearch.experiment.steps.network_costs import costs, latencies, layer_costs
from masksearch.pruning.ticket import draw_ticket
from masksearch.schedules.rounds import Round
from masksearch.spaces import FilterSpace, NetworkSpace
from masksearch.training import Training, evaluate
from masksearch.training.record import Weights

__all__ = ["PRICES", "RoundEvaluator"]

_LOOKED_AT = 100  # images, for outputs that are constant

PRICES = ("cost", "layers", "latency")
"""What :meth:`RoundEvaluator.costs` tells."""


@dataclass(frozen=True)
class RoundEvaluator:
    """Looks at rounds of one cell."""

    cell: Cell
    build: Callable[[], nn.Module]
    space: NetworkSpace
    data: Data
    dense: DenseNetwork
    device: torch.device

    def row(self, round_: Round, found: MaskResult) -> dict[str, Any]:
        """The round's mask, scores, accuracies and seconds.

        Test accuracy and loss under the mask: ``found`` at the weights that it was found at, which are those of the
        last round ("@w(t-1)"); ``untrained`` at the weights that training starts from; ``best_dense`` at the best
        weights of the dense network by validation ("@w0"); ``trained`` after the last epoch.
        """
        moments = {
            "found": round_.found_at,
            "untrained": round_.rewound,
            "best_dense": self.dense.weights["best"],
            "trained": round_.trained,
        }
        tested: dict[str, dict[str, Any]] = {}
        seconds = 0.0
        for name, weights in moments.items():
            same = next((other for other in tested if _equal(moments[other], weights)), None)
            if same is not None:
                tested[name] = tested[same]
            else:
                tested[name], seconds = self._accuracy(round_.mask, weights)
        model = self.build()
        model.load_state_dict(round_.found_at)
        model.to(self.device)
        later = self.cell.trained_before(round_.number)
        scored = gaps(self.cell, model, self.space, round_.mask, self.data, self.dense, later=later)
        others: dict[str, int | str | dict[str, float]] = (
            {FOREIGN_TRIALS: found.foreign_trials} if found.foreign_trials else {}
        )
        others |= {"rescored": dict(found.rescored)} if found.rescored else {}
        others |= {"kept": found.kept} if found.kept else {}
        row: dict[str, Any] = {
            "number": round_.number,
            "score": {"objective": self.cell.settings.sweep.objective, "scorings": found.scorings, **others, **scored},
            **{name: dict(accuracy) for name, accuracy in tested.items()},
            "mask": _describe(round_.mask),
            "epochs": [asdict(epoch) for epoch in round_.training.epochs] if round_.training else [],
            "seconds": {
                "search": found.seconds,
                "retrain": sum(epoch.seconds for epoch in round_.training.epochs) if round_.training else 0.0,
                "test": seconds,  # of the last moment, after training
            },
        }
        row["trained"] |= {"constant_outputs": self._constant_outputs(round_), **_end_of(round_.training)}
        if not row["epochs"]:  # no search has seen these images
            ticket = draw_ticket(self.build(), self.space, round_.mask, round_.trained)
            row["trained"]["rest_accuracy"] = evaluate(ticket.network, self.data.rest, device=self.device).accuracy
        return row

    def costs(self, network: nn.Module, round_: Round) -> dict[str, Any]:
        """What the trained ``network`` costs, in whole and per layer, and the seconds of a forward pass."""
        pruned = isinstance(self.space, FilterSpace) and not round_.mask.empty_layers()
        masks = {} if pruned else self.space.parameter_masks(round_.mask)
        example, full = self.data.test.images[:1].to(self.device), self.build().to(self.device)
        return {
            "cost": costs(network, masks, example),
            "layers": layer_costs(network, masks, full, example),
            "latency": latencies(copy.deepcopy(network), full, example, self.cell.settings.run.latency_seconds),
        }

    def _constant_outputs(self, round_: Round) -> int:
        """Outputs of the trained network that are the same for all of some test images: cut off, or dead."""
        network = draw_ticket(self.build(), self.space, round_.mask, round_.trained).network.to(self.device).eval()
        with torch.no_grad():
            logits = network(self.data.test.images[:_LOOKED_AT].to(self.device))
        return int((logits == logits[:1]).all(0).sum())

    def _accuracy(self, mask: Mask, weights: Weights) -> tuple[dict[str, Any], float]:
        """On the test set, and the seconds that a pass over it takes."""
        ticket = draw_ticket(self.build(), self.space, mask, weights)
        began = perf_counter()
        seen = evaluate(ticket.network, self.data.test, device=self.device)
        return {"test_accuracy": seen.accuracy, "test_loss": seen.loss}, perf_counter() - began


def _equal(one: Weights, other: Weights) -> bool:
    """Whether two state dicts have the same values."""
    return one is other or (one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one))


def _end_of(training: Training | None) -> dict[str, Any]:
    return {
        "val_accuracy": training.epochs[-1].val_accuracy if training and training.epochs else None,
        "best_val_epoch": training.best.epoch if training and training.best else None,
        "diverged": bool(training and training.diverged),
    }


def _describe(mask: Mask) -> dict[str, Any]:
    return {
        "granularity": mask.space.granularity,
        "n_units": mask.space.n_units,
        "kept": mask.n_kept,
        "density": mask.density,
        "densities": mask.densities(),
        "empty_layers": mask.empty_layers(),
    }
