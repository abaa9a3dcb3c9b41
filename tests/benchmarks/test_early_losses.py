"""Early losses as predictors of final accuracies: the compared trainings, and two numbers computed by hand."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import early_losses
from benchmarks.early_losses import early, learned, table, trainings
from masksearch.experiment import Settings
from masksearch.training import EpochRow


def epoch(train, val, accuracy):
    return EpochRow(1, train, None, val, accuracy, lr=0.1, seconds=1.0)


def rows(train, val, ends):
    """Trainings of two epochs: losses after the first, accuracies after the second."""
    return [[epoch(t, v, 0.1), epoch(0.0, 0.0, end)] for t, v, end in zip(train, val, ends, strict=True)]


def test_early_loss_gives_rank_correlation_and_accuracy_loss_of_its_choice():
    masks = rows(train=[3, 2, 1, 4], val=[1, 2, 3, 4], ends=[0.5, 0.6, 0.7, 0.4])
    assert early(masks, "train_loss", 1) == pytest.approx((1.0, 0.0))
    # Ranks of minus the losses 4 3 2 1, of the ends 2 3 4 1: 1 - 6 (4 + 0 + 4 + 0) / (4 (16 - 1)) = 0.2.
    assert early(masks, "val_loss", 1) == pytest.approx((0.2, 20.0))


def test_learned_leaves_out_collapsed_trainings():
    masks = rows(train=[1, 1, 1], val=[1, 1, 1], ends=[0.3, 0.56, 0.7])
    assert [epochs[-1].val_accuracy for epochs in learned(masks)] == [0.56, 0.7]


def cell(sparsity, seed, end, control="none", schedule="one_shot"):
    epochs = [epoch(2 - end, end, end)] * 10
    return SimpleNamespace(sparsity=sparsity, seed=seed, control=control, schedule=schedule, epochs=epochs)


def test_early_losses_compare_masks_of_equal_sparsity_seed_and_hold(monkeypatch):
    ends = (0.5, 0.51, 0.52, 0.53, 0.54)
    cells = [cell(sparsity, seed, end) for sparsity in (0.5, 0.7) for seed in (0, 1) for end in ends]
    others = [cell(0.5, 0, 0.9, control="shuffle"), cell(0.5, 0, 0.9, schedule="iterative"), cell(0.9, 0, 0.5)]
    sweeps = {"search": cells[:3], "global": cells[3:] + others, "held": cells[:5]}
    flat = {"granularity": "filter", "methods": ["random"]}
    holds = {
        name: Settings().updated(flat | {"hold": "macs" if name == "held" else "units"}, "test") for name in sweeps
    }
    read = {name: SimpleNamespace(cells=cells, settings=[holds[name]]) for name, cells in sweeps.items()}
    monkeypatch.setattr(early_losses, "read_sweep", lambda folder: read[folder.name])
    found = trainings([Path(name) for name in sweeps])
    counts = {key: {seed: len(masks) for seed, masks in seeds.items()} for key, seeds in found.items()}
    both = {0: 5, 1: 5}
    assert counts == {("units", 0.5): both, ("units", 0.7): both, ("units", 0.9): {0: 1}, ("macs", 0.5): {0: 5}}
    head = "| macs | 50 % | 1 | 5 to 5 |"
    assert list(table(found))[2:4] == [
        f"{head} training loss |{' 1.00, 0.0 |' * 5}",
        f"{head} validation loss |{' -1.00, 4.0 |' * 5}",
    ]
    assert len(list(table(found))) == 2 + 2 * 3  # nothing of the one mask at 90 %
