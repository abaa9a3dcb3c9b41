"""Language models pruned after training: perplexity of magnitude, Wanda, SparseGPT, OWL and searched densities.

    python -m benchmarks.language_models [--scale smoke|cpu] [--seeds N] [--folder DIR] [--write NAME]

A GPT is trained on the bytes of the standard library's source files, split by file, and pruned at 50, 60, 70 % and by
2:4 masks. Calibration and search read training text; perplexity is that of the test text in windows of 256 bytes, each
predicted from its beginning. Fine-tuning is one pass over a fortieth of the training text; the rows of sparsity 0 are
the dense network, trained on in the same way. Densities are searched by EvoPress: a score is minus the KL, on training
text, of a network that SparseGPT has pruned to the dense one. SparseGPT then prunes block after block at the densities
found. Rows that ``results/language_models_SCALE.csv`` has are not repeated, and an interrupted training continues in
``--folder``.
"""

import argparse
import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn

import masksearch as ms
from benchmarks.page import HERE, write_block
from benchmarks.rows import read_csv, write_csv
from masksearch.data.texts import standard_library
from masksearch.models.byte_gpt import ByteGpt
from masksearch.pruning.one_shot import LayerLevels

SPARSITIES = (0.5, 0.6, 0.7)
PATTERN = (2, 4)
PRECISION = "bfloat16"  # of trainings; masks, updates and perplexities are computed in float32


@dataclass(frozen=True)
class Scale:
    """Sizes of the network, of the data and of the search."""

    width: int
    layers: int
    windows: int  # of training text
    test_windows: int
    epochs: int
    calibration: int  # windows
    search_windows: int  # calibration windows that score a mask
    budget: int  # scorings of the search; each generation has 21, which read as many windows as 3 full scorings
    swaps: int = 500_000  # per layer, of the order of channels
    length: int = 256
    lr: float = 1e-3


SCALES = {
    "smoke": Scale(
        width=32,
        layers=2,
        windows=64,
        test_windows=16,
        epochs=1,
        calibration=16,
        search_windows=8,
        budget=22,
        swaps=500,
        length=64,
    ),
    "cpu": Scale(
        width=256, layers=6, windows=32768, test_windows=512, epochs=1, calibration=128, search_windows=32, budget=421
    ),
}


def texts(scale: Scale) -> ms.Data:
    """Windows of the standard library's source; a file belongs to one split."""
    raw = standard_library(Path(), scale.length)
    sizes = ((raw.train, scale.windows), (raw.test, scale.test_windows), (raw.val, scale.test_windows))
    pairs = [(pair[0][:n].long(), None) for pair, n in sizes if pair is not None]
    return ms.Data.from_tensors("standard_library", *pairs, task="language_model")


def part(data: ms.Data, n: int) -> ms.Split:
    """The first windows of the training text."""
    tokens = data.train.inputs[:n]
    return ms.Split(tokens, tokens, task=data.task)


def trained(data: ms.Data, scale: Scale, seed: int, folder: Path) -> nn.Module:
    """The dense network of a seed."""
    torch.manual_seed(seed)
    model = ByteGpt(scale.width, scale.layers, scale.length)
    settings = ms.TrainSettings(
        scale.epochs,
        batch_size=16,
        optimizer="adamw",
        lr=scale.lr,
        lr_schedule="cosine",
        weight_decay=0.1,
        clip_norm=1.0,
        warmup=0.1,
        precision=PRECISION,
    )
    ms.train(model, data.train, settings, val=data.val, seed=seed, checkpoint=folder / f"dense_{seed}")
    return model.eval()


def searched(model: nn.Module, data: ms.Data, scale: Scale, density: float, seed: int) -> dict[str, float]:
    """Densities of the layers, by KL of networks that SparseGPT pruned, to the dense network on calibration text."""
    space = ms.weight_space(model, include="blocks.*")
    levels = LayerLevels(model, space, data.train.inputs[: scale.calibration])
    scorer = ms.Scorer(model, space, part(data, scale.search_windows), "reconstructed", calibration=levels)
    products = ms.criteria.wanda(model, space, part(data, scale.calibration))
    history = ms.search(
        space, ms.searchers.LevelSwitches(), scorer, density, scale.budget, seed, saliencies={"wanda": products}
    )
    return history.best_mask.densities()


def pruned(
    model: nn.Module, data: ms.Data, scale: Scale, sparsity: float | None, seed: int
) -> Iterator[tuple[str, ms.OneShot, float]]:
    """Name, result and seconds of every method at one sparsity, or by 2:4 masks without one."""
    tokens = data.train.inputs[: scale.calibration]
    for method in ("magnitude", "wanda", "sparsegpt"):
        amount: dict[str, Any] = {"pattern": PATTERN} if sparsity is None else {"sparsity": sparsity}
        result = ms.one_shot(model, tokens, method=method, **amount)
        yield method, result, result.seconds
    if sparsity is None:
        started = time.perf_counter()
        permuted = ms.permute_channels(model, tokens, *PATTERN, swaps=scale.swaps, seed=seed)
        result = ms.one_shot(permuted.model, tokens, pattern=PATTERN)
        yield "sparsegpt, permuted", result, time.perf_counter() - started
        return
    for name in ("owl", "searched"):
        started = time.perf_counter()
        densities = (
            ms.outlier_densities(model, tokens, 1 - sparsity)
            if name == "owl"
            else searched(model, data, scale, 1 - sparsity, seed)
        )
        result = ms.one_shot(model, tokens, densities)
        yield f"sparsegpt, {name} densities", result, time.perf_counter() - started


def perplexity(model: nn.Module, split: Any) -> float:
    """Perplexity per byte on a split."""
    return math.exp(ms.evaluate(model, split).loss)


def fine_tuned(model: nn.Module, masks: dict[str, Tensor] | None, data: ms.Data, scale: Scale, seed: int) -> nn.Module:
    """Train a network in place for one pass over a fortieth of the training text, with its masks kept; return it."""
    fortieth = part(data, max(16, scale.windows // 40))
    settings = ms.TrainSettings(
        1, batch_size=16, optimizer="adamw", lr=scale.lr / 5, lr_schedule="cosine", precision=PRECISION
    )
    ms.train(model, fortieth, settings, masks=masks, seed=seed)
    return model.eval()


N_METHODS = {0.0: 1, None: 4}  # rows per seed by sparsity; 5 at all others


def label(sparsity: float | None) -> str:
    """Return a sparsity as the rows show it; None: the pattern of N:M masks."""
    return f"{PATTERN[0]}:{PATTERN[1]}" if sparsity is None else str(sparsity)


def run(scale_name: str, seeds: int, folder: Path, path: Path) -> list[dict[str, Any]]:
    """Add the rows that are missing, and return all."""
    scale, rows = SCALES[scale_name], [dict(row) for row in read_csv(path)]
    had = {(row["seed"], row["sparsity"], row["method"]) for row in rows}
    data = texts(scale)

    def add(seed: int, sparsity: str, method: str, **values: float) -> None:
        row = {"seed": str(seed), "sparsity": sparsity, "method": method}
        rows.append(row | {name: f"{value:.4f}" for name, value in values.items()})
        write_csv(rows, path)
        print(rows[-1], flush=True)

    for seed in range(seeds):
        missing = [
            sparsity
            for sparsity in (0.0, *SPARSITIES, None)
            if sum(key[:2] == (str(seed), label(sparsity)) for key in had) < N_METHODS.get(sparsity, 5)
        ]
        if not missing:
            continue
        model = trained(data, scale, seed, folder)
        dense = perplexity(model, data.test)
        if 0.0 in missing:  # the control: the dense network trained for as long
            after = perplexity(fine_tuned(copy.deepcopy(model), None, data, scale, seed), data.test)
            add(seed, label(0.0), "dense", dense=dense, one_shot=dense, fine_tuned=after, seconds=0.0)
            missing.remove(0.0)
        for sparsity in missing:
            for method, result, seconds in pruned(model, data, scale, sparsity, seed):
                if (str(seed), label(sparsity), method) in had:
                    continue
                before = perplexity(result.model, data.test)
                masks = result.space.parameter_masks(result.mask)
                after = perplexity(fine_tuned(result.model, masks, data, scale, seed), data.test)
                add(seed, label(sparsity), method, dense=dense, one_shot=before, fine_tuned=after, seconds=seconds)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return means over seeds, with standard deviations of the perplexities, as Markdown."""
    head = "| sparsity | method | seeds | one-shot perplexity | after fine-tuning | seconds |"
    lines = [head, "|---|---|---:|---:|---:|---:|"]
    for sparsity, method in dict.fromkeys((row["sparsity"], row["method"]) for row in rows):
        own = [row for row in rows if (row["sparsity"], row["method"]) == (sparsity, method)]
        values = [[float(row[name]) for row in own] for name in ("one_shot", "fine_tuned")]
        cells = [f"{fmean(numbers):.3f}" + (f" ± {stdev(numbers):.3f}" if len(own) > 1 else "") for numbers in values]
        seconds = fmean(float(row["seconds"]) for row in own)
        lines.append(f"| {sparsity} | {method} | {len(own)} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Read the flags, run what is missing, print the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=list(SCALES), default="cpu")
    parser.add_argument("--seeds", type=int, default=0, help="run seeds 0 to N - 1; 0 prints the rows that are there")
    parser.add_argument("--folder", type=Path, default=Path("runs/language_models"), help="dense networks")
    parser.add_argument("--write", metavar="NAME", help="write the table to the page with these markers")
    arguments = parser.parse_args()
    path = HERE / "results" / f"language_models_{arguments.scale}.csv"
    text = table(run(arguments.scale, arguments.seeds, arguments.folder / arguments.scale, path))
    print(text)
    if arguments.write:
        write_block(arguments.write, text + "\n")


if __name__ == "__main__":
    main()
