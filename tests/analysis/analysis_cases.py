"""Results of cells as a sweep writes them, with distinct values."""

from changed_results import changed

from masksearch.experiment.cell_results import CellResult, DenseResult
from masksearch.experiment.result_parts import (
    Accuracy,
    Effort,
    Latency,
    LayerCost,
    MaskSummary,
    NetworkCost,
    RoundResult,
    ScoreSummary,
    TrainedAccuracy,
)
from masksearch.training import EpochRow


def make_epoch(epoch, train_loss, val_accuracy):
    return EpochRow(epoch, train_loss, train_metric=None, val_loss=None, val_metric=val_accuracy, lr=0.1, seconds=1)


def make_round(number=1, seed=0, density=0.1, trains=True):
    """The result of a round: its accuracies depend on moment, round and seed."""

    def figures(value):
        return value + 0.01 * number + 0.02 * seed, 2 - value - 0.1 * number

    epochs = [make_epoch(epoch, 1 / epoch, 0.5 + 0.1 * epoch + 0.02 * seed) for epoch in (1, 2, 3)]
    first = number == 1
    return RoundResult(
        number=number,
        score=ScoreSummary("accuracy", 100 if first else 0, 0.6, 0.6, 0.5, 0.5, 0.1, accuracy_gap=0.01 * (seed + 1)),
        found=Accuracy(*figures(0.2)),
        untrained=Accuracy(*figures(0.3)),
        best_dense=Accuracy(*figures(0.4)),
        trained=TrainedAccuracy(
            *figures(0.8),
            constant_outputs=9 if seed == 2 else 0,
            val_accuracy=0.7 if trains else None,
            best_val_epoch=2 + seed if trains else None,
        ),
        mask=MaskSummary("weight", 1000, round(1000 * density), density, {}, ["fc1"] if seed == 1 else []),
        epochs=epochs if trains else [],
        seconds=Effort(search=2.0 + seed if first else 0.0, retrain=4.0 if first else 0.0, test=0.5),
    )


def make_cost(nonzero_params, effective_macs):
    return NetworkCost(1010, nonzero_params, 5000, effective_macs, {}, peak_bytes=1, bytes=4040, compressed_bytes=4040)


def make_dense(seed=0, epochs=4):
    """The result of the dense network of a seed, with its epochs."""
    accuracies = [0.5, 0.7, 0.9, 0.8]
    return DenseResult(
        seed=seed,
        test_accuracy=0.95 + 0.01 * seed,
        test_loss=0.2,
        best_test_accuracy=0.96 + 0.01 * seed,
        best_test_loss=0.1,
        cost=make_cost(1000, 5000),
        best_val_epoch=3,
        diverged=False,
        epochs=[make_epoch(epoch, 2 / epoch, accuracies[epoch - 1]) for epoch in range(1, epochs + 1)],
    )


def make_cell(method="snip", sparsity=0.9, seed=0, rounds=1, **changes):
    """The result of a cell; figures depend on the seed. Changes are those of ``changed``."""
    density = 1 - sparsity
    cell = CellResult(
        method=method,
        learned=False,
        granularity="weight",
        sparsity=sparsity,
        find_at="0",
        seed=seed,
        schedule="one_shot" if rounds == 1 else "lottery_ticket",
        n_rounds=rounds,
        rewind_to="0",
        retrain_lr=None,
        control="none",
        rounds=[make_round(number, seed, density ** (number / rounds)) for number in range(1, rounds + 1)],
        cost=make_cost(100, 500 * (seed + 1)),
        layers={
            name: LayerCost(10 * n, n, round(10 * n * density), round(n * density))
            for name, n in (("fc1", 600), ("fc2", 400))
        },
        latency=Latency(0.001, 0.001, ticket_batch_64=0.001 * (seed + 1), dense_batch_64=0.004),
        dense=make_dense(seed).without_epochs,
        settings={"dense": {"seed": seed, "training": {"lr": 0.1}}, "scope": "global"},
    )
    return changed(cell, **changes)
