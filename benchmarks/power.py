"""What a pilot says about the sweep to come: best baseline, best search, deviation of differences, number of seeds.

    python -m benchmarks.power runs/post_training_pilot_* [--difference 1.0] [--seeds 12]

Only accuracies on all validation images after the last epoch are read, no test results. Of several rates of retraining,
the one with the highest mean stands for its method. The best baseline is the criterion with the highest mean, the best
search the method with more than one scoring that has it; random searches are controls. Differences are paired by seed.
The number of seeds is that of a paired t-test, two-sided at 5 %, with 80 % power for the true difference that is given;
Wilcoxon's signed-rank test needs 1 / 0.955 times as many for normal differences, which is counted. Of three seeds, a
deviation is rough: the upper limit of its one-sided 80 % interval is printed beside it.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from masksearch.criteria import CRITERIA
from masksearch.experiment import read_sweep
from masksearch.experiment.cell_results import CellResult
from masksearch.utils.errors import InputError
from masksearch.utils.number_text import number_text

__all__ = ["Contrast", "contrast", "power", "report", "seeds_needed"]

_LEVEL, _POWER, _EFFICIENCY = 0.05, 0.8, 3 / math.pi  # of Wilcoxon's test beside the t-test, normal differences
_MOST = 1000  # seeds
_RANDOM = ("random_search", "optuna_random")

Accuracies = dict[str, dict[int, float]]
"""Validation accuracies in percent: method -> seed -> accuracy."""


@dataclass(frozen=True)
class Contrast:
    """Paired differences between two methods in a pilot, in points of validation accuracy."""

    method: str
    baseline: str
    mean: float
    deviation: float  # of the differences over seeds
    upper: float  # limit of the deviation's one-sided 80 % interval
    seeds: int  # in the pilot


def power(n: int, difference: float, deviation: float) -> float:
    """Return the power of Wilcoxon's two-sided paired test with ``n`` seeds, in [0, 1]: the t-test's at n x 0.955."""
    if n < 2 or deviation == 0:
        return float(n >= 2)
    pairs = n * _EFFICIENCY
    limit = stats.t.ppf(1 - _LEVEL / 2, pairs - 1)
    shift = abs(difference) / deviation * math.sqrt(pairs)
    return float(stats.nct.sf(limit, pairs - 1, shift) + stats.nct.cdf(-limit, pairs - 1, shift))


def seeds_needed(difference: float, deviation: float) -> int | None:
    """Return the least number of seeds, 6 or more, with 80 % power; None if 1,000 are too few.

    Five pairs can't reach 5 % in Wilcoxon's two-sided test.
    """
    return next((n for n in range(6, _MOST + 1) if power(n, difference, deviation) >= _POWER), None)


def accuracies(cells: Sequence[CellResult]) -> tuple[Accuracies, dict[str, str]]:
    """Return the validation accuracies of one sparsity, and the kind of each method: baseline, search or control."""
    by_rate: dict[str, dict[float | None, dict[int, float]]] = {}
    kinds = {}
    for cell in cells:
        if cell.trained.val_accuracy is None or cell.control != "none":
            continue
        name, kind = _name_and_kind(cell)
        kinds[name] = kind
        by_rate.setdefault(name, {}).setdefault(cell.retrain_lr, {})[cell.seed] = 100 * cell.trained.val_accuracy
    found = {}
    for name, rates in by_rate.items():
        most = max(map(len, rates.values()))
        full = [own for own in rates.values() if len(own) == most]
        found[name] = max(full, key=lambda own: statistics.fmean(own.values()))
    return found, kinds


def _name_and_kind(cell: CellResult) -> tuple[str, str]:
    name = cell.method
    if name in CRITERIA:
        changes = [] if cell.schedule == "one_shot" else [cell.schedule]
        repairs = [] if cell.setting("reconstruct") not in (None, "off") else ["unrepaired"]
        return " ".join([name, str(cell.setting("scope")), *changes, *repairs]), "baseline"
    budget = int(cell.setting("budget"))
    ranking = cell.setting("saliencies") or ()
    is_search = budget > 1 and name not in _RANDOM
    return " by ".join([name, *ranking[:1]]), "search" if is_search else "control"


def contrast(found: Accuracies, method: str, baseline: str) -> Contrast:
    """Return the paired differences of two methods over the seeds that both have.

    Raises
    ------
    InputError
        If both have fewer than two seeds in common.
    """
    both = sorted(found[method].keys() & found[baseline].keys())
    if len(both) < 2:
        raise InputError(f"seeds: {method} and {baseline} have {len(both)} in common; a deviation needs 2 or more")
    differences = [found[method][seed] - found[baseline][seed] for seed in both]
    deviation, free = statistics.stdev(differences), len(both) - 1
    upper = deviation * math.sqrt(free / stats.chi2.ppf(1 - _POWER, free))
    return Contrast(method, baseline, statistics.fmean(differences), deviation, upper, len(both))


def report(folders: Sequence[Path], difference: float, planned: int) -> str:
    """Return Markdown tables, one per sparsity, and the contrast that each suggests."""
    cells = [cell for folder in folders for cell in read_sweep(folder).cells]
    parts = []
    for sparsity in sorted({cell.sparsity for cell in cells}):
        found, kinds = accuracies([cell for cell in cells if cell.sparsity == sparsity])
        means = {name: statistics.fmean(own.values()) for name, own in found.items()}
        names = {kind: [name for name, own in kinds.items() if own == kind] for kind in ("baseline", "search")}
        best = {kind: max(own, key=means.__getitem__) for kind, own in names.items() if own}
        if len(best) < 2:
            parts.append(f"{100 * sparsity:g} %: no {' and no '.join({'baseline', 'search'} - best.keys())}\n")
            continue
        parts.append(_table(found, means, best["baseline"], f"{100 * sparsity:g} % removed", difference, planned))
        own = contrast(found, best["search"], best["baseline"])
        needed = [_count(seeds_needed(difference, deviation)) for deviation in (own.deviation, own.upper)]
        parts.append(
            f"Contrast: {own.method} minus {own.baseline}. Deviation of the differences {own.deviation:.2f} points "
            f"({own.seeds} seeds; at most {own.upper:.2f} at 80 %). For a true difference of {difference:g} points, "
            f"{needed[0]} seeds give 80 % power ({needed[1]} at the upper limit); {planned} seeds have a power of "
            f"{power(planned, difference, own.deviation):.2f} ({power(planned, difference, own.upper):.2f}).\n"
        )
    return "\n".join(parts)


def _count(n: int | None) -> str:
    return f"more than {_MOST:,}" if n is None else str(n)


def _table(
    found: Accuracies, means: dict[str, float], baseline: str, title: str, difference: float, planned: int
) -> str:
    lines = [
        f"| {title} | validation % | seeds | minus {baseline} | deviation | seeds for 80 % | power of {planned} |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in sorted(found, key=means.__getitem__, reverse=True):
        figures = ["–"] * 4
        if name != baseline:
            own = contrast(found, name, baseline)
            needed = _count(seeds_needed(difference, own.deviation))
            figures = [number_text(own.mean, "+.2f"), f"{own.deviation:.2f}", needed]
            figures.append(f"{power(planned, difference, own.deviation):.2f}")
        lines.append(f"| {name} | {means[name]:.2f} | {len(found[name])} | {' | '.join(figures)} |")
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="finished sweeps of the pilot")
    parser.add_argument("--difference", type=float, default=1.0, help="true difference in points")
    parser.add_argument("--seeds", type=int, default=12, help="seeds of the sweep to come")
    asked = parser.parse_args(arguments)
    try:
        print(report(asked.folders, asked.difference, asked.seeds))
    except InputError as error:
        print(f"power: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
