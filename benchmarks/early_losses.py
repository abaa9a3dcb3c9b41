"""How soon losses tell which mask will have learned most: rank correlations with the accuracy at the end.

    python -m benchmarks.early_losses runs/resnet20_*

All one-shot masks of the folders that are of one sparsity, seed and hold, found at the end of the dense training, are
compared, where there are at least five that don't collapse (within 15 points of the best): Spearman's correlation of
minus a loss after so many epochs with validation accuracy after the last one, and what the mask of the lowest loss has
less than the best one, in points of that accuracy. Means over the seeds.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from masksearch.experiment import read_sweep
from masksearch.training import EpochRow
from masksearch.utils.errors import InputError
from masksearch.utils.number_text import number_text

_EPOCHS, _FEWEST, _COLLAPSED = (2, 4, 6, 8, 10), 5, 0.15
_LOSSES = ("train_loss", "val_loss")

Epochs = Sequence[EpochRow]


def trainings(folders: Sequence[Path]) -> dict[tuple[str, float], dict[int, list[Epochs]]]:
    """(what is held, sparsity) -> seed -> rows of the epochs of every mask's retraining."""
    found: dict[tuple[str, float], dict[int, list[Epochs]]] = defaultdict(lambda: defaultdict(list))
    for folder in folders:
        sweep = read_sweep(folder)
        hold = sweep.settings[0].scoring.hold
        for cell in sweep.cells:
            if cell.control == "none" and cell.schedule == "one_shot" and cell.epochs:
                found[hold, cell.sparsity][cell.seed].append(cell.epochs)
    return found


def table(found: Mapping[tuple[str, float], Mapping[int, Sequence[Epochs]]]) -> Iterator[str]:
    """Lines of Markdown."""
    kinds = {"train_loss": "training loss", "val_loss": "validation loss"}
    yield "| held | removed | seeds | masks | loss | " + " | ".join(f"{epochs} epochs" for epochs in _EPOCHS) + " |"
    yield "| --- | ---: | ---: | ---: | --- |" + " ---: |" * len(_EPOCHS)
    for (hold, sparsity), seeds in sorted(found.items()):
        compared = [kept for masks in seeds.values() if len(kept := learned(masks)) >= _FEWEST]
        if not compared:
            continue
        n = f"{min(map(len, compared))} to {max(map(len, compared))}"
        for loss in _LOSSES:
            cells = []
            for epochs in _EPOCHS:
                pairs = [early(masks, loss, epochs) for masks in compared]
                correlation, behind = np.mean(pairs, axis=0)
                cells.append(f"{number_text(correlation, '.2f')}, {behind:.1f}")
            yield f"| {hold} | {100 * sparsity:g} % | {len(compared)} | {n} | {kinds[loss]} | {' | '.join(cells)} |"


def learned(masks: Sequence[Epochs]) -> list[Epochs]:
    """The trainings that have not collapsed."""
    best = max(map(_end, masks))
    return [epochs for epochs in masks if _end(epochs) >= best - _COLLAPSED]


def _end(epochs: Epochs) -> float:
    """Validation accuracy after the last epoch; 0 without one."""
    return epochs[-1].val_accuracy or 0.0


def early(masks: Sequence[Epochs], loss: str, epochs: int) -> tuple[float, float]:
    """Return the rank correlation of an early loss with the final accuracy, and what its choice lacks to the best."""
    ends = np.array([_end(rows) for rows in masks])
    losses = np.array([getattr(rows[epochs - 1], loss) for rows in masks])
    return float(spearmanr(-losses, ends)[0]), 100 * float(ends.max() - ends[losses.argmin()])


if __name__ == "__main__":
    try:
        for line in table(trainings([Path(path) for path in sys.argv[1:]])):
            print(line, flush=True)
    except InputError as error:
        sys.exit(f"early_losses: {error}")
