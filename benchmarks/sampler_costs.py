"""What Optuna's samplers cost where they have as many parameters as they are given at most: seconds per proposal.

    python benchmarks/sampler_costs.py [--trials 40 100 400] [--only tpe gp]

The number of parameters varies: one bit per unit of a space; for the Gaussian process one density per layer. A tenth of
the units is kept, and scores are random. Each timing is one ask and one tell, without a storage; medians of at most ten
timings, within a minute. The figures that refusals of larger spaces name
(``masksearch.searchers.optuna.optuna_search.SAMPLERS``) are from here.
"""

import argparse
from time import perf_counter

import numpy as np
import torch

import masksearch as ms
from masksearch.searchers.optuna.optuna_search import SAMPLERS, OptunaSearch
from masksearch.utils.registry import choose

LAST = 10  # proposals that the medians are over
PATIENCE = 60.0  # seconds of a sampler


def problem(parameters: int, layers: bool) -> ms.Problem:
    """A space with a parameter a layer, or a unit."""
    sizes = [100] * parameters if layers else [parameters]
    space = ms.MaskSpace([(f"layer{i}", (1, size), size) for i, size in enumerate(sizes)])
    return ms.Problem(space, 0.1, ms.Budget(100_000), 0, on_empty="allow")


def costs(sampler: str, trials: int) -> list[float]:
    """Seconds of every proposal."""
    most, rng = SAMPLERS[sampler].most, np.random.default_rng(0)
    by_layer = sampler == "gp"
    searcher = OptunaSearch(sampler, "layers" if by_layer else "bits")
    searcher.start(problem(most, by_layer))
    taken: list[float] = []
    while len(taken) < trials and sum(taken) < PATIENCE:
        began = perf_counter()
        proposals = searcher.ask()
        if not proposals:
            break
        middle = perf_counter()
        scores = [ms.Score(float(rng.normal())) for _ in proposals]
        told = perf_counter()
        searcher.tell(proposals, scores)
        taken.append(middle - began + perf_counter() - told)
    return taken


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[40, 100, 400])
    parser.add_argument("--only", nargs="+", default=list(SAMPLERS), metavar="SAMPLER")
    given = parser.parse_args()
    try:
        for name in given.only:
            choose("sampler of Optuna", name, list(SAMPLERS))
    except ms.InputError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread\n")
    print("| sampler | parameters | " + " | ".join(f"s after {n} trials" for n in given.trials) + " |")
    print("|---|---:|" + "---:|" * len(given.trials))
    for name in given.only:
        taken = costs(name, max(given.trials))
        cells = [f"{np.median(taken[max(0, n - LAST) : n]):.2f}" if len(taken) >= n else "–" for n in given.trials]
        print(f"| {name} | {SAMPLERS[name].most} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
