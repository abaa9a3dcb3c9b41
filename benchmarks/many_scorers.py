"""How many masks a second does one search score with several workers, and what does the driver cost?

    python -m benchmarks.many_scorers [--parts network sleeping ray] [--again] [--write many_scorers]

``network``: processes score masks of a ResNet-20 on 100 random images; 1 and 2 workers, and the scorer without workers.
``sleeping``: scorers that sleep 50 to 150 ms, 100 ms on average, as coroutines of one process, on a space of 10 layers
with 1,000 units each; histories go to disk. Ideal are workers / 0.1 s. The driver's milliseconds are its processor time
per scoring: proposing, telling, recording, and waking 1 of the coroutines. ``ray``: the same with actors that sleep.
``results/many_scorers.csv`` gets the rows; rows that are there are repeated with ``--again`` only.
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch

import masksearch as ms
from benchmarks.page import HERE, write_block
from benchmarks.rows import Row, read_csv, write_csv

PATH = HERE / "results" / "many_scorers.csv"
PARTS = ("network", "sleeping", "ray")
SPACE = ms.MaskSpace([(f"layer{i}", (10, 100), 1000) for i in range(10)])
MEAN = 0.1  # seconds of a sleeping scoring
CHAINS = "annealing, a chain per worker"
_ROUNDS = 40  # scorings of each worker


class Sleeping:
    """The share of a hidden mask that a mask keeps, after a sleep of 50 to 150 ms."""

    def __init__(self) -> None:
        self.goal = SPACE.random(0.1, generator=torch.Generator().manual_seed(0)).bits
        self.rng = random.Random(0)

    def scores(self, proposals: Sequence[ms.Proposal]) -> list[ms.Score]:
        """Scores without a sleep."""
        return [ms.Score(float((proposal.mask.bits & self.goal).sum()) / 1000) for proposal in proposals]

    def score(self, proposals: Sequence[ms.Proposal]) -> list[ms.Score]:
        """Scores of a worker in its own process."""
        time.sleep(MEAN * (0.5 + self.rng.random()))
        return self.scores(proposals)


class Awaited(Sleeping):
    """The same for coroutines."""

    async def score(self, proposals: Sequence[ms.Proposal]) -> list[ms.Score]:  # type: ignore[override]
        """Scores of a coroutine."""
        await asyncio.sleep(MEAN * (0.5 + self.rng.random()))
        return self.scores(proposals)


@dataclass(frozen=True)
class Case:
    """One search: its searcher, its workers, and how they are used."""

    part: str
    searcher: str
    workers: int  # 0: the scorer itself
    order: str = "as_finished"
    most: int = 100_000  # scorings at most

    @property
    def key(self) -> tuple[str, ...]:
        """What distinguishes the row of the case."""
        return self.part, self.searcher, str(self.workers), self.order


def searcher_of(name: str, workers: int) -> ms.searchers.Searcher:
    """The searcher of a row."""
    if not name.startswith("annealing"):
        return ms.searchers.SEARCHERS[name]()
    return ms.searchers.Annealing(chains=workers if name == CHAINS else 1)


def cases() -> Iterator[Case]:
    """All cases, in the order of the table."""
    for workers in (0, 1, 2):
        yield Case("network", "random_search", workers, "as_finished" if workers else "one scorer", most=24)
    for workers in (2, 8):
        yield Case("ray", CHAINS, workers)
    names = ("random_search", "annealing, one chain", CHAINS, "evolution")
    for name in names:
        for workers in (8, 64, 256):
            yield Case("sleeping", name, workers)
    yield Case("sleeping", "evolution", 64, "fixed")
    for workers in (8, 64):
        yield Case("sleeping", "optuna_tpe", workers, most=640)


def measured(case: Case) -> Row:
    """Run a case, and return its row."""
    scorings = min(case.most, _ROUNDS * max(case.workers, 2))
    batch = case.workers if case.order == "fixed" else 1
    space: ms.MaskSpace = SPACE
    scorer: object = Awaited() if case.part == "sleeping" else Sleeping()
    if case.part == "network":
        model = ms.build_model("resnet20", (3, 32, 32))
        images = torch.randn(100, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        space = ms.weight_space(model)
        scorer = ms.Scorer(model, space, ms.Split(images, torch.arange(100) % 10), "loss")
    if case.workers:
        backend = {"sleeping": "coroutines", "ray": "ray"}.get(case.part, "processes")
        scorer = ms.ParallelScorer(scorer, case.workers, case.order, backend)  # type: ignore[arg-type]
    searcher = searcher_of(case.searcher, case.workers)
    used = [time.process_time(), time.process_time()]

    def note(trial: ms.Trial, history: ms.History, _: object) -> None:
        if not trial.number:
            used[0] = time.process_time()
        used[1] = time.process_time()

    with TemporaryDirectory() as folder:
        history = ms.search(space, searcher, scorer, 0.1, scorings, batch=batch, folder=folder, callbacks=[note])
    rate = len(history) / history.seconds
    return {
        "part": case.part,
        "searcher": case.searcher,
        "workers": str(case.workers),
        "order": case.order,
        "scorings": str(len(history)),
        "seconds": f"{history.seconds:.3f}",
        "rate": f"{rate:.2f}",
        "ideal": "" if case.part == "network" else f"{rate * MEAN / case.workers:.4f}",
        "driver_ms": f"{1000 * (used[1] - used[0]) / (len(history) - 1):.3f}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "torch": torch.__version__,
    }


def key_of(row: Row) -> tuple[str, ...]:
    """The key of a row's case."""
    return row["part"], row["searcher"], row["workers"], row["order"]


def collect(parts: Sequence[str], again: bool) -> None:
    """Measure missing cases of some parts, or all of them anew."""
    rows = {key_of(row): row for row in read_csv(PATH)}
    for case in cases():
        if case.part in parts and (again or case.key not in rows):
            rows[case.key] = measured(case)
            print(rows[case.key], flush=True)
            write_csv([rows[one.key] for one in cases() if one.key in rows], PATH)


def table() -> list[str]:
    """The rows as lines of Markdown."""
    names = {"network": "ResNet-20, processes", "sleeping": "sleeping coroutines", "ray": "sleeping Ray actors"}
    lines = ["| scorers | searcher | order | workers | scorings | scorings / s | % of ideal | driver, ms per scoring |"]
    lines.append("|---|---|---|---:|---:|---:|---:|---:|")
    for row in read_csv(PATH):
        ideal = f"{100 * float(row['ideal']):.0f}" if row["ideal"] else "–"
        cells = [names[row["part"]], row["searcher"], row["order"].replace("_", " "), row["workers"], row["scorings"]]
        driver = f"{float(row['driver_ms']):.2f}" if int(row["workers"]) else "–"  # else it scores, too
        cells += [f"{float(row['rate']):.1f}", ideal, driver]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Collect rows, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=["network", "sleeping"])
    parser.add_argument("--again", action="store_true", help="measure all cases of the parts anew")
    parser.add_argument("--write", choices=["many_scorers"], help="also write the table to its place on the page")
    given = parser.parse_args()
    torch.set_num_threads(1)
    collect(given.parts, given.again)
    print("\n".join(table()))
    if given.write:
        write_block(given.write, "\n".join(table()) + "\n")


if __name__ == "__main__":
    main()
