"""Does a short training rank masks as the full one does? Rank correlations, for several steps and learning rates.

    python -m benchmarks.short_training $MASKSEARCH_DATA runs/search_trained_cpu_global runs/search_trained_cpu_erk

Every finished one-shot cell of the sweeps is a mask with a known validation accuracy after its full retraining. The
same mask is scored after a few steps of the same training at some learning rate, from the same weights. The table has
Spearman's correlation of the two over the masks of a sparsity, over the better half alone, and the accuracy of the mask
that the scores would choose.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import masksearch as ms
from masksearch.experiment import read_sweep
from masksearch.experiment.cell_results import CellResult
from masksearch.spaces import NetworkSpace
from masksearch.utils.errors import InputError
from masksearch.utils.number_text import number_text

STEPS_AND_FACTORS = {
    "weight": [(100, 1), (100, 8), (150, 1), (150, 3), (150, 8), (150, 16)],
    "filter": [(50, 1), (50, 3), (100, 1), (100, 3)],
}


def trained_masks(sweeps: Sequence[Path], space: NetworkSpace, seed: int) -> dict[float, list[tuple[float, ms.Mask]]]:
    """By sparsity: validation accuracy after retraining and the mask, best first; of equal masks one."""
    found: dict[float, dict[int, tuple[float, ms.Mask]]] = {}
    for sweep in sweeps:
        for path in sorted(sweep.glob(f"*seed{seed}_*/metrics.json")):
            cell = CellResult.load(path.parent)
            mask = ms.Mask.load(path.parent / "mask.safetensors", space)
            found.setdefault(cell.sparsity, {})[mask.hash] = (cell.trained.val_accuracy or 0.0, mask)
    return {sparsity: sorted(masks.values(), key=lambda pair: -pair[0]) for sparsity, masks in sorted(found.items())}


def table(data: ms.Data, sweeps: Sequence[Path]) -> Iterator[str]:
    """Lines of Markdown, one as soon as it is known."""
    plan = read_sweep(sweeps[0]).settings[0]
    seed, settings = plan.sweep.first_seed, plan.train
    model = ms.build_model(plan.sweep.model, data, seed=seed)
    granularity = plan.sweep.granularity
    space = ms.weight_space(model) if granularity == "weight" else ms.filter_space(model, data.search.images[:1])
    masks = trained_masks(sweeps, space, seed)
    yield "| steps | learning rate | sparsity | masks | all | better half | chosen % | best % |"
    yield "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for steps, factor in STEPS_AND_FACTORS[granularity]:
        lr = factor * settings.lr
        scorer = ms.ShortTraining(model, space, data.train, data.search, replace(settings, lr=lr), steps=steps)
        for sparsity, pairs in masks.items():
            accuracies = np.array([accuracy for accuracy, _ in pairs])
            scores = np.array([scorer(mask).value for _, mask in pairs])
            half = (len(pairs) + 1) // 2
            over = [number_text(spearmanr(accuracies[:n], scores[:n]).statistic, ".2f") for n in (len(pairs), half)]
            chosen = accuracies[scores.argmax()]
            yield (
                f"| {steps} | {lr:.2g} | {100 * sparsity:g} % | {len(pairs)} | {' | '.join(over)} | "
                f"{100 * chosen:.2f} | {100 * accuracies[0]:.2f} |"
            )


def main() -> None:
    """Print the table."""
    paths = [Path(argument) for argument in sys.argv[2:]]
    try:
        sweeps = [read_sweep(path) for path in paths]
    except InputError as error:
        sys.exit(f"short_training: {error}")
    plan = sweeps[0].settings[0]
    data = ms.load_data(
        plan.sweep.dataset,
        sys.argv[1],
        search_examples=plan.scoring.search_examples,
        train_examples=plan.scoring.train_examples,
        val_examples=plan.scoring.val_examples,
    )
    for line in table(data, paths):
        print(line, flush=True)


if __name__ == "__main__":
    main()
