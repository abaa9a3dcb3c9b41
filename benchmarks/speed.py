"""How fast are scorings? The thesis' way, a resident masked forward, and the scorer, in turn, in one run.

    python benchmarks/speed.py DATA_ROOT [--seconds 5]

Prints Markdown tables of medians and ratios. The thesis' way, per scoring: apply the mask, go through torchvision's
DataLoader with ToTensor and Normalize, forward, accuracy. Resident: the plain scorer (``fast=False``), images in
memory.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import cycle
from time import perf_counter

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

import masksearch as ms
from masksearch.seeds import torch_generator


def in_turn(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Median seconds of every run, each given its turn again and again, after one round of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = perf_counter() + seconds
    while perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, run in runs.items():
            start = perf_counter()
            run()
            times[name].append(perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def walk(space: ms.MaskSpace, scorer: ms.Scorer, density: float, radius: int) -> Callable[[], None]:
    """Scorings of annealing's proposals at one radius, 20 a call, so that cheap ones are timed together."""
    share = radius / min(density, 1 - density) / space.n_units
    searcher = ms.searchers.Annealing(radius_start=share, radius_end=share)
    searcher.start(ms.Problem(space, density, ms.Budget(10**9), seed=0))

    def run() -> None:
        for _ in range(20):
            proposals = searcher.ask()
            searcher.tell(proposals, scorer.score(proposals))

    return run


def thesis_way(model: torch.nn.Module, space: ms.WeightSpace, root: str, images: int) -> Callable[[], float]:
    """The published scoring."""
    from torchvision import datasets, transforms

    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    loader = DataLoader(Subset(datasets.MNIST(root, transform=prepare), range(images)), batch_size=64)
    masks = cycle([space.random(0.1, generator=torch_generator(seed)) for seed in range(8)])

    def run() -> float:
        right = 0
        with torch.no_grad(), space.applied(model, next(masks)):
            for batch, labels in loader:
                right += int((model(batch).argmax(1) == labels).sum())
        return right / images

    return run


def weights(root: str, seconds: float) -> None:
    """thesis_mlp on 2,000 images of MNIST at 90 %."""
    data = ms.load_data("mnist", root)
    model = ms.build_model("thesis_mlp", data).eval()
    space = ms.weight_space(model)
    print("| thesis_mlp, 90 %, 2,000 images | ms per scoring | x the thesis' way | x resident |")
    print("|---|---:|---:|---:|")
    for radius in (100, 4):
        plain = ms.Scorer(model, space, data.search, fast=False)
        runs = {
            "the thesis' way": thesis_way(model, space, root, len(data.search)),
            "resident": walk(space, plain, 0.1, radius),
            "scorer": walk(space, ms.Scorer(model, space, data.search), 0.1, radius),
        }
        times = in_turn(runs, seconds)
        times |= {name: times[name] / 20 for name in ("resident", "scorer")}
        published = times["the thesis' way"]
        for name, median in times.items():
            ratios = f"{published / median:.1f} | {times['resident'] / median:.1f}"
            print(f"| {name}, radius {radius} | {1e3 * median:.2f} | {ratios} |", flush=True)


def scorings(scorer: ms.Scorer, masks: Iterator[ms.Mask]) -> Callable[[], ms.Score]:
    """Scorings of one mask after the other."""
    return lambda: scorer(next(masks))


def filters(seconds: float) -> None:
    """Networks for CIFAR-10 on 1,000 random images, masks of half to a fifth of the filters."""
    print("\n| filter masks, 1,000 images | resident, ms | scorer, ms | x resident | kept MACs, % |")
    print("|---|---:|---:|---:|---:|")
    for name, density in (("vgg16_bn", 0.2), ("basic_cnn", 0.3), ("resnet20", 0.2)):
        model = ms.build_model(name, (3, 32, 32)).eval()
        space = ms.filter_space(model, torch.zeros(1, 3, 32, 32))
        generator = torch_generator(0)
        split = ms.Split(torch.randn(1000, 3, 32, 32, generator=generator), torch.randint(10, (1000,)))
        masks = cycle([space.random(density, "layerwise", torch_generator(seed)) for seed in range(8)])
        plain, fast = ms.Scorer(model, space, split, fast=False), ms.Scorer(model, space, split)
        times = in_turn({"resident": scorings(plain, masks), "scorer": scorings(fast, masks)}, seconds)
        share = space.kept_macs(next(masks)) / space.kept_macs(space.full())
        print(
            f"| {name}, {1 - density:.0%} | {1e3 * times['resident']:.0f} | {1e3 * times['scorer']:.0f} | "
            f"{times['resident'] / times['scorer']:.1f} | {100 * share:.1f} |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="folder with MNIST")
    parser.add_argument("--seconds", type=float, default=5.0, help="per row")
    flags = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    weights(flags.root, flags.seconds)
    filters(flags.seconds)


if __name__ == "__main__":
    main()
