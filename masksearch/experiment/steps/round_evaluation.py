"""The evaluation of a pruning round: scores of its mask, and its accuracies with four states of the weights."""

from time import perf_counter
from typing import Any, cast

import torch
from torch import nn

from masksearch.core.mask import Mask
from masksearch.experiment.context import CellContext
from masksearch.experiment.result_parts import Accuracy, Effort, MaskSummary, RoundResult, ScoreSummary, TrainedAccuracy
from masksearch.experiment.steps.cell_scorer import cell_scorer, scored_network
from masksearch.experiment.steps.mask_search import MaskResult
from masksearch.experiment.steps.retraining import same_weights
from masksearch.pruning.ticket import draw_ticket
from masksearch.schedules.rounds import Round
from masksearch.scoring import OBJECTIVES, Scorer
from masksearch.spaces import Granularity
from masksearch.tasks import CLASSIFICATION
from masksearch.training import evaluate
from masksearch.training.record import Weights
from masksearch.utils.nested import call_model, output_tensors, to_device

__all__ = ["mask_scores", "round_result"]

_TESTED_FOR_CONSTANTS = 100  # test examples; a tenth of them where every example has many outputs


def round_result(context: CellContext, round_: Round[MaskResult]) -> RoundResult:
    """Evaluate a finished pruning round: return its mask's size and scores, its test results and its duration.

    Metric and loss on the test set under the mask: ``found`` at the weights that it was found at, which are those of
    the last round ("as found"); ``untrained`` at the weights that training starts from; ``best_dense`` at the best
    weights of the dense network by validation ("best dense"); ``trained`` after the last epoch.
    """
    found, training = round_.found, round_.training
    moments = {
        "found": round_.found_at,
        "untrained": round_.rewound,
        "best_dense": context.dense.weights["best"],
        "trained": round_.trained,
    }
    tested: dict[str, Accuracy] = {}
    seconds = 0.0  # of the last moment, after training
    for name, weights in moments.items():
        same = next((other for other in tested if same_weights(moments[other], weights)), None)
        if same is None:
            began = perf_counter()
            result = evaluate(_ticket(context, round_.mask, weights), context.data.test, device=context.device)
            tested[name], seconds = Accuracy(result.metric, result.loss), perf_counter() - began
        else:
            tested[name] = tested[same]
    model = context.build()
    model.load_state_dict(round_.found_at)
    model.to(context.device)
    trained = _ticket(context, round_.mask, round_.trained)
    rest = None if training and training.epochs else evaluate(trained, context.data.rest, device=context.device)
    epochs = list(training.epochs) if training else []
    return RoundResult(
        number=round_.number,
        score=mask_scores(context, model, round_),
        found=tested["found"],
        untrained=tested["untrained"],
        best_dense=tested["best_dense"],
        trained=TrainedAccuracy(
            test_accuracy=tested["trained"].test_accuracy,
            test_loss=tested["trained"].test_loss,
            constant_outputs=_constant_outputs(context, trained),
            val_accuracy=epochs[-1].val_metric if epochs else None,
            best_val_epoch=training.best.epoch if training and training.best else None,
            diverged=bool(training and training.diverged),
            rest_accuracy=None if rest is None else rest.metric,
        ),
        mask=_summary(round_.mask),
        epochs=epochs,
        seconds=Effort(search=found.seconds, retrain=sum(epoch.seconds for epoch in epochs), test=seconds),
    )


def mask_scores(context: CellContext, model: nn.Module, round_: Round[MaskResult]) -> ScoreSummary:
    """Return two scores of a round's mask: on the search's examples, and on the other validation examples.

    No search has seen an example of the rest of the validation examples; but where the best masks were scored again,
    the rest chose among them.
    """
    found, objective, task = round_.found, context.settings.sweep.objective, context.data.task
    search, rest = context.data.search, context.data.rest
    later = context.cell.trained_before(round_.number)

    def score(examples: Any) -> float:
        return cell_scorer(context, model, examples, later=later)(round_.mask).value

    def metric(examples: Any) -> float:
        """Return the task's metric of the network under the round's mask, on ``examples``."""
        name = "accuracy" if task is CLASSIFICATION else "metric"
        return task.score(Scorer(scored_network(context, model), context.space, examples, name)(round_.mask).value)

    search_score = score(search)
    rest_score = search_score if OBJECTIVES[objective].images == 0 else score(rest)
    search_metric, rest_metric = metric(search), metric(rest)
    return ScoreSummary(
        objective=objective,
        scorings=found.scorings,
        search_score=search_score,
        search_accuracy=search_metric,
        rest_score=rest_score,
        rest_accuracy=rest_metric,
        gap=search_score - rest_score,
        accuracy_gap=task.score(search_metric) - task.score(rest_metric),
        foreign_trials=found.foreign_trials,
        rescored=dict(found.rescored),
        kept=found.kept,
    )


def _ticket(context: CellContext, mask: Mask, weights: Weights) -> nn.Module:
    return draw_ticket(context.build(), context.space, mask, weights).network


def _constant_outputs(context: CellContext, network: nn.Module) -> int:
    """Return how many outputs of the trained network are equal for all of some test examples."""
    network.to(context.device).eval()
    task = context.data.task
    n = _TESTED_FOR_CONSTANTS if task.select is None else _TESTED_FOR_CONSTANTS // 10
    with torch.no_grad():
        outputs = task.read(call_model(network, to_device(context.data.example(n), context.device)))
    return sum(int((part == part[:1]).all(0).sum()) for part in output_tensors(outputs))


def _summary(mask: Mask) -> MaskSummary:
    return MaskSummary(
        granularity=cast(Granularity, mask.space.granularity),
        n_units=mask.space.n_units,
        kept=mask.n_kept,
        density=mask.density,
        densities=mask.densities(),
        empty_layers=mask.empty_layers(),
    )
