"""How well do searches choose layer widths from a few noisy trainings? Channel-Bench-Macro, a table of 32,768 networks.

    MASKSEARCH_DATA=data python -m benchmarks.channel_bench [--seconds 120] [--only NAME ...]

The table (Su et al. 2021, BCNet; repository xiusu/Channel-Bench-Macro) has the CIFAR-10 test accuracies of three
trainings from scratch of all 4^7 width profiles of a ResNet and of a MobileNet: every one of seven layers has 1 to 4
quarters of its full width. ``$MASKSEARCH_DATA/channel_bench/resnet.npz`` and ``mobilenet.npz`` hold it as arrays; this
project does not ship them.

Candidates are the profiles whose FLOPs differ by at most 2 % from those of uniform widths, at 2 and at 3 quarters. A
search trains N different profiles and sees one training of each, drawn per repeat. What it chooses is judged by the
mean of the other two trainings:

- gain: that mean minus the same mean of uniform widths, in points,
- regret: the highest such mean of all candidates minus that mean,
- over the ridge: the gain minus that of the baseline in the same repeat.

The baseline is a ridge regression on the logarithms of the widths, fitted to N random candidates; it chooses the
candidate of highest prediction. Every search is asked for two choices: the profile of the highest accuracy that it has
seen (``best seen``), and the candidate of highest prediction by the same ridge, fitted to the search's own trainings
(``ridge``). ``width_regression`` has a third choice, by its own regression (``own model``). Settings were chosen on
the ResNet, with repeats from 100,000 on.

A mask of a search stands for the candidate that is nearest in the logarithms of the widths. A profile that was trained
before costs nothing. ``results/channel_bench.csv`` has a row per network, widths, method, choice and N. Every call adds
repeats to rows that have fewer than 1,000, for at most ``--seconds`` per network, widths and method. Slow methods have
fewer repeats (``FEWER``), and wider intervals. A repeat takes 0.02 to 0.13 s of CPU time by most searches and 2.5 s by
``spdy``, whose dynamic programme counts the FLOPs of each transition.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.page import HERE, write_block
from benchmarks.problems import searcher_of
from benchmarks.rows import Row, read_csv, write_csv
from masksearch.analysis import Estimate
from masksearch.core.density_allocation import Amount, Density, Hold
from masksearch.core.limits import Limits
from masksearch.core.mask import Mask
from masksearch.core.problem_and_trials import Budget, Problem, Score
from masksearch.core.space import MaskSpace
from masksearch.searchers import Searcher, WidthRegression
from masksearch.utils.seeds import derive, numpy_generator

PATH = HERE / "results" / "channel_bench.csv"
NETWORKS = ("resnet", "mobilenet")
QUARTERS = (2, 3)
TRAININGS = (8, 12, 16, 40, 80)
LAYERS, STEPS = 7, 4
REPEATS, LEAST = 1000, 4
QUANTITIES = ("gain", "regret", "over_ridge")
WITHIN = 0.02  # of the uniform profile's FLOPs
PENALTY = 3.0  # of the ridge, on standardised logarithms; chosen on the ResNet
BASELINE, BEST_SEEN, BY_RIDGE, OWN = "ridge on random candidates", "best seen", "ridge", "own model"

SEARCHES = {
    "random_search": "random_search",
    "annealing over densities": "annealing:densities=True",
    "annealing over units": "annealing",
    "evolution": "evolution:population=8",
    "eda": "eda:generation=8,elites=3",
    "spdy": "spdy:levels=4",
    "width_regression": "width_regression",
    "optuna_random": "optuna_random",
    "optuna_qmc": "optuna_qmc",
    "optuna_cmaes": "optuna_cmaes",
    "optuna_nsga2": "optuna_nsga2",
    "optuna_tpe": "optuna_tpe",
    "optuna_gp": "optuna_gp",
}
"""Name in the table -> searcher with settings."""
MOST = {"optuna_gp": 16}
"""Name of a slow method -> largest number of trainings."""
FEWER = {"spdy": 100, "optuna_tpe": 100, "optuna_gp": 20}
"""Name of a slow method -> number of repeats, in place of ``REPEATS``."""
SCHEDULED = ("annealing over densities", "annealing over units", "evolution", "eda", "spdy")
"""Methods whose proposals depend on the budget: one search per number of trainings; of others, one search for all."""


class Profiles(MaskSpace):
    """Masks of seven layers of four units, a unit being a quarter of the layer's width, within a limit of FLOPs."""

    def __init__(self, flops: np.ndarray, most: float) -> None:
        super().__init__([(f"layer{i}", (STEPS, 1), STEPS) for i in range(LAYERS)], "filter")
        self.limits = Limits((STEPS,) * LAYERS, (1,) * LAYERS, (1,) * LAYERS)
        self._flops, self._most = flops, most
        self.density = most / flops.max()  # share of the full network's FLOPs

    def cost_of(self, kept: np.ndarray, hold: Hold) -> int:
        """FLOPs of a profile, int64 (7,) in quarters."""
        return int(self._flops[tuple(np.asarray(kept) - 1)])

    def fits(self, kept: np.ndarray, density: Density | Amount, hold: Hold | None = None) -> bool:
        """Whether a profile, int64 (7,) in quarters, costs no more FLOPs than the limit."""
        return bool(self._flops[tuple(np.asarray(kept) - 1)] <= self._most) if (np.asarray(kept) > 0).all() else False


@dataclass(frozen=True)
class Case:
    """Candidates of one network at one number of quarters."""

    network: str
    quarters: int
    widths: np.ndarray  # int (n, 7)
    accuracy: np.ndarray  # float (n, 3)
    space: Profiles
    known: dict[tuple[int, ...], int] = field(default_factory=dict)  # nearest candidates of masks

    @classmethod
    def read(cls, folder: Path, network: str, quarters: int) -> "Case":
        """Read the candidates from the arrays of a network."""
        table = np.load(folder / f"{network}.npz")
        widths, flops = table["widths"].astype(np.int64), table["flops"].astype(np.float64)
        middle = flops[(widths == quarters).all(1)][0]
        near = np.abs(flops / middle - 1) <= WITHIN
        space = Profiles(flops.reshape((STEPS,) * LAYERS), (1 + WITHIN) * middle)
        assert (widths == np.indices((STEPS,) * LAYERS).reshape(LAYERS, -1).T + 1).all()
        return cls(network, quarters, widths[near], table["accuracy"][near].astype(np.float64), space)

    @cached_property
    def logs(self) -> np.ndarray:
        """Standardised logarithms of the widths, float64 (n, 7)."""
        logs = np.log(self.widths)
        return (logs - logs.mean(0)) / logs.std(0)

    @cached_property
    def uniform(self) -> int:
        """Index of the uniform profile."""
        return int(np.flatnonzero((self.widths == self.quarters).all(1))[0])

    @cached_property
    def start(self) -> Mask:
        """Mask of the uniform profile."""
        units = (np.arange(LAYERS)[:, None] * STEPS + np.arange(self.quarters)).flatten()
        return Mask.of_units(self.space, units)

    def nearest(self, mask: Mask) -> int:
        """Index of the candidate that is nearest to a mask's widths, in logarithms."""
        kept = mask.bits.numpy().reshape(LAYERS, STEPS).sum(1)
        key = tuple(kept.tolist())
        if key not in self.known:
            self.known[key] = int(((np.log(self.widths) - np.log(kept)) ** 2).sum(1).argmin())
        return self.known[key]

    def predicted(self, trained: Sequence[int], seen: np.ndarray, penalty: float = PENALTY) -> np.ndarray:
        """Accuracies of all candidates by a ridge regression on those that were trained, float64 (n,)."""
        inputs, accuracy = self.logs[list(trained)], seen[list(trained)]
        centred = inputs - inputs.mean(0)
        squares = centred.T @ centred + penalty * np.eye(LAYERS)
        return self.logs @ np.linalg.solve(squares, centred.T @ (accuracy - accuracy.mean()))


@dataclass
class Repeat:
    """One repeat: which of the three trainings of every candidate is seen."""

    case: Case
    number: int
    seen: np.ndarray = field(init=False)  # accuracy that a search sees, float64 (n,)
    judged: np.ndarray = field(init=False)  # mean of the other two trainings

    def __post_init__(self) -> None:
        self.rng = numpy_generator(self.number, "channel_bench", self.case.network, self.case.quarters)
        accuracy = self.case.accuracy
        self.seen = accuracy[np.arange(len(accuracy)), self.rng.integers(0, 3, len(accuracy))]
        self.judged = (accuracy.sum(1) - self.seen) / 2

    def baseline(self, n: int) -> int:
        """The candidate that the ridge chooses after ``n`` random trainings."""
        rng = numpy_generator(self.number, "channel_bench", "baseline", n)
        trained = rng.choice(len(self.seen), n, replace=False)
        return int(self.case.predicted(trained.tolist(), self.seen).argmax())

    def search(self, text: str, looks: Sequence[int]) -> tuple[dict[int, dict[str, int]], float]:
        """What a search chooses after numbers of different trainings, by kind of choice; and seconds per proposal."""
        searcher, most = searcher_of(text), max(looks)
        amount = Amount(self.case.space.density, hold="macs", on_empty="keep_one")
        seed = derive(self.number, "channel_bench", "search")
        began, asked, trained, choices = time.perf_counter(), 0, dict[int, None](), dict[int, dict[str, int]]()
        searcher.start(Problem(self.case.space, budget=Budget(most), seed=seed, start=self.case.start, amount=amount))
        while len(choices) < len(looks):
            proposals = searcher.ask(1)
            found = [self.case.nearest(proposal.mask) for proposal in proposals]
            asked += len(found)
            searcher.tell(proposals, [Score(float(self.seen[place])) for place in found])
            trained |= dict.fromkeys(found)
            for n in looks:
                if n not in choices and (len(trained) >= n or asked >= 4 * n or not proposals):
                    choices[n] = self._chosen(list(trained), searcher)
        return choices, (time.perf_counter() - began) / asked

    def _chosen(self, places: list[int], searcher: Searcher) -> dict[str, int]:
        choices = {
            BEST_SEEN: places[int(self.seen[places].argmax())],
            BY_RIDGE: int(self.case.predicted(places, self.seen).argmax()),
        }
        if isinstance(searcher, WidthRegression):
            choices[OWN] = int(searcher.predictions(self.case.widths).argmax())
        return choices


def rows_of(case: Case, method: str, seconds: float, done: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of one method, after as many further repeats as ``seconds`` allow; ``done`` are its earlier rows."""
    choose = _chooser(method)
    gains: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    taken: list[float] = []
    first = int(done[0]["repeats"]) if done else 0
    trainings = [n for n in TRAININGS if n <= MOST.get(method, TRAININGS[-1])]
    began, number = time.monotonic(), first
    while number < FEWER.get(method, REPEATS) and (number < first + LEAST or time.monotonic() - began < seconds):
        repeat = Repeat(case, number)
        uniform, highest = repeat.judged[case.uniform], repeat.judged.max()
        choices, each = choose(repeat, trainings)
        taken.append(each)
        for n in trainings:
            ridge = repeat.judged[repeat.baseline(n)]
            for choice, place in choices[n].items():
                own = repeat.judged[place]
                gains.setdefault((choice, n), []).append((own - uniform, highest - own, own - ridge))
        number += 1
    rows = []
    for (choice, n), values in gains.items():
        row: dict[str, Any] = {"network": case.network, "quarters": case.quarters, "candidates": len(case.widths)}
        row |= {"method": method, "searcher": SEARCHES.get(method, ""), "choice": choice, "trainings": n}
        row |= {"repeats": number, "seconds_per_proposal": f"{np.median(taken):.5f}"}
        [before] = [old for old in done if (old["choice"], int(old["trainings"])) == (choice, n)] or [None]
        for name, new in zip(QUANTITIES, np.array(values).T, strict=True):
            mean, deviation = new.mean(), new.std(ddof=1)
            if before is not None:
                mean, deviation = _pooled(float(before[name]), float(before[f"{name}_deviation"]), first, new)
            row |= {name: f"{mean:.5f}", f"{name}_deviation": f"{deviation:.5f}"}
        rows.append(row)
    return rows


def _pooled(mean: float, deviation: float, n: int, new: np.ndarray) -> tuple[float, float]:
    """Mean and deviation of ``n`` earlier values and of new ones."""
    total = (n * mean + new.sum()) / (n + len(new))
    squares = (n - 1) * deviation**2 + n * (mean - total) ** 2 + float(((new - total) ** 2).sum())
    return float(total), math.sqrt(squares / (n + len(new) - 1))


Chooser = Callable[[Repeat, Sequence[int]], tuple[dict[int, dict[str, int]], float]]


def _chooser(method: str) -> Chooser:
    if method == "uniform":
        return lambda repeat, looks: ({n: {"fixed": repeat.case.uniform} for n in looks}, 0.0)
    if method == BASELINE:
        return lambda repeat, looks: ({n: {BY_RIDGE: repeat.baseline(n)} for n in looks}, 0.0)
    return lambda repeat, looks: _searched(repeat, method, looks)


def _searched(repeat: Repeat, method: str, looks: Sequence[int]) -> tuple[dict[int, dict[str, int]], float]:
    if method not in SCHEDULED:
        return repeat.search(SEARCHES[method], looks)
    parts = [repeat.search(SEARCHES[method], [n]) for n in looks]
    return {n: choices for part, _ in parts for n, choices in part.items()}, float(
        np.median([each for _, each in parts])
    )


MODELS = ("width_regression", "optuna_random", "optuna_gp")
METHODS = ("uniform", BASELINE, *SEARCHES)
TABLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "channel_bench_gain": ("gain", METHODS),
    "channel_bench_over_ridge": ("over_ridge", MODELS),
}
"""Place on the page -> quantity and methods of the table."""


def collect(folder: Path, methods: Sequence[str], seconds: float) -> None:
    """Add the rows that are missing, and repeats to rows that have fewer than they should."""
    rows: list[dict[str, Any]] = [*read_csv(PATH)]
    for method in methods:
        for network in NETWORKS:
            for quarters in QUARTERS:
                case = (network, str(quarters), method)
                done = [row for row in rows if (row["network"], str(row["quarters"]), row["method"]) == case]
                if done and int(done[0]["repeats"]) >= FEWER.get(method, REPEATS):
                    continue
                new = rows_of(Case.read(folder, network, quarters), method, seconds, done)
                rows = [row for row in rows if row not in done] + new
                write_csv(rows, PATH)
                print(f"{network}, {quarters} quarters, {method}: {new[-1]['repeats']} repeats", flush=True)


def table(quantity: str, methods: Sequence[str]) -> list[str]:
    """Means over the repeats with 95 % intervals, as lines of Markdown."""
    lines = [f"| network | widths | method | choice | repeats | {' | '.join(f'{n}' for n in TRAININGS)} | seconds |"]
    lines.append("|---|---|---|---|---:|" + "---:|" * (len(TRAININGS) + 1))
    groups: dict[tuple[str, str, str, str], dict[int, Row]] = {}
    for row in sorted(read_csv(PATH), key=lambda row: (NETWORKS.index(row["network"]), row["quarters"])):
        if row["method"] not in methods:
            continue
        key = (row["network"], row["quarters"], row["method"], row["choice"])
        groups.setdefault(key, {})[int(row["trainings"])] = row
    for (network, quarters, method, choice), own in groups.items():
        cells = [_cell(own[n], quantity) if n in own else "–" for n in TRAININGS]
        last = own[max(own)]
        seconds = float(last["seconds_per_proposal"])
        lines.append(
            f"| {network} | {quarters}/4 | {method} | {choice} | {last['repeats']} | {' | '.join(cells)} "
            f"| {seconds:.4f} |"
        )
    return lines


def _cell(row: Row, quantity: str) -> str:
    half = 1.96 * float(row[f"{quantity}_deviation"]) / math.sqrt(int(row["repeats"]))
    return f"{Estimate(float(row[quantity]), half, int(row['repeats'])).text(digits=3)}"


def main() -> None:
    """Collect missing rows, or write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="per network, widths and method")
    parser.add_argument("--only", nargs="+", default=METHODS, choices=METHODS, metavar="NAME")
    parser.add_argument("--write", choices=TABLES, help="write a table of the rows that are there to its place")
    given = parser.parse_args()
    if given.write:
        quantity, methods = TABLES[given.write]
        write_block(given.write, "\n".join(table(quantity, methods)) + "\n")
    else:
        folder = Path(os.environ.get("MASKSEARCH_DATA", "data")) / "channel_bench"
        missing = [name for name in NETWORKS if not (folder / f"{name}.npz").exists()]
        if missing:
            sys.exit(f"{folder}: no {missing[0]}.npz; set MASKSEARCH_DATA to the folder that holds channel_bench")
        torch.set_num_threads(1)
        collect(folder, given.only, given.seconds)


if __name__ == "__main__":
    main()
