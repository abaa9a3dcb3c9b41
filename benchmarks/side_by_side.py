"""Does it pay to train several tickets side by side, and to score several masks at once? In turn, in one run.

    python benchmarks/side_by_side.py [--turns 5] [--threads 1] [--device cuda]

Tickets of one network with other weight masks, 30 steps of Adam on batches of 128 random images, as short trainings
make them, against one training after the other. On a GPU also whole searches, proposing included, that score 16 weight
masks at once, on 2,000 random images, against one by one: annealing of 16 chains, and EDA. Medians over turns.
"""

import argparse
from time import perf_counter

import numpy as np
import torch

import masksearch as ms
from masksearch.experiment.process_setup import prepare
from masksearch.experiment.settings.all_settings import RunSettings
from masksearch.pruning.ticket import Ticket, draw_ticket
from masksearch.scoring.short_training.batched_training import BatchedNetworks, sum_of_losses
from masksearch.training.record import copy_weights
from masksearch.utils.seeds import torch_generator

BATCH, STEPS = 128, 30
IMAGES, SCORINGS, CHAINS = 2000, 640, 16
SHAPE = (1, 28, 28)
NETWORKS = ("lenet_300_100", "thesis_mlp", "lenet5")
SETTINGS = ms.TrainSettings(epochs=1, batch_size=BATCH, optimizer="adam", lr=1e-3)


def tickets(name: str, n: int) -> list[Ticket]:
    """Tickets of ``n`` random masks that keep a tenth of the weights."""
    model = ms.build_model(name, SHAPE)
    space, weights = ms.weight_space(model), copy_weights(model)
    masks = [space.random(0.1, generator=torch_generator(seed)) for seed in range(n)]
    return [draw_ticket(ms.build_model(name, SHAPE), space, mask, weights) for mask in masks]


def one_by_one(drawn: list[Ticket], split: ms.Split, device: str) -> None:
    """A training for each."""
    for ticket in drawn:
        ms.train(ticket.network, split, SETTINGS, masks=ticket.masks, device=device)


def side_by_side(drawn: list[Ticket], split: ms.Split, device: str) -> None:
    """One training for all."""
    networks = [ticket.network for ticket in drawn]
    together = BatchedNetworks(networks)
    masks = together.masks([ticket.masks for ticket in drawn])
    ms.train(together, split, SETTINGS, masks=masks, loss=sum_of_losses, device=device)
    together.copy_to(networks)


def scorings(name: str, searcher: str, at_once: int, device: str) -> float:
    """Return seconds per scoring of a search with this number of proposals at once."""
    model = ms.build_model(name, SHAPE).to(device).eval()
    space = ms.weight_space(model)
    images = torch.randn(IMAGES, *SHAPE, generator=torch_generator(0))
    scorer = ms.Scorer(model, space, ms.Split(images, torch.arange(IMAGES) % 10), "calibrated_loss")
    search = ms.searchers.Annealing(chains=CHAINS) if searcher == "annealing" else ms.searchers.SEARCHERS[searcher]()
    start = perf_counter()
    ms.search(space, search, scorer, 0.1, SCORINGS, batch=at_once, on_empty="allow")
    return (perf_counter() - start) / SCORINGS


def compare_scorings(turns: int, device: str) -> None:
    """Print the table of searches."""
    print("\n| network | search | one by one, ms per scoring | 16 at once | ratio |")
    print("|---|---|---:|---:|---:|")
    for name in NETWORKS[:2]:  # the third has convolutions, and its masks are scored one by one
        for searcher in ("annealing", "eda"):
            taken: dict[int, list[float]] = {1: [], CHAINS: []}
            for turn in range(turns + 1):
                for at_once, seconds in taken.items():
                    once = scorings(name, searcher, at_once, device)
                    if turn:
                        seconds.append(once)
            one, side = (1000 * float(np.median(seconds)) for seconds in taken.values())
            print(f"| {name} | {searcher} | {one:.2f} | {side:.2f} | {one / side:.2f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    flags = parser.parse_args()
    try:
        prepare(RunSettings(device=flags.device))
    except ms.InputError as error:
        parser.error(str(error))
    torch.set_num_threads(flags.threads)
    print(f"torch {torch.__version__}, {flags.threads} threads, {flags.device}\n")
    images = torch.randn(STEPS * BATCH, *SHAPE, generator=torch_generator(0))
    split = ms.Split(images, torch.arange(len(images)) % 10)
    print("| network | tickets | one by one, ms per ticket | side by side | ratio |")
    print("|---|---:|---:|---:|---:|")
    for name in NETWORKS:
        for n in (4, 16):
            drawn = tickets(name, n)
            seconds: dict[str, list[float]] = {"one": [], "side": []}
            for turn in range(flags.turns + 1):
                for run, taken in zip((one_by_one, side_by_side), seconds.values(), strict=True):
                    start = perf_counter()
                    run(drawn, split, flags.device)
                    if turn:  # the first one is a warm-up
                        taken.append(perf_counter() - start)
            one, side = (1000 / n * float(np.median(taken)) for taken in seconds.values())
            print(f"| {name} | {n} | {one:.0f} | {side:.0f} | {one / side:.2f} |", flush=True)
    if flags.device != "cpu":
        compare_scorings(flags.turns, flags.device)


if __name__ == "__main__":
    main()
