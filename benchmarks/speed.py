"""How fast are scorings? The thesis' way, a resident masked forward, and the scorer, in turn, in one run.

    python benchmarks/speed.py DATA_ROOT [--only large chain profile filters search] [--seconds 5] [--device cuda]

Prints Markdown tables of medians and ratios. The thesis' way, per scoring: apply the mask, go through torchvision's
DataLoader with ToTensor and Normalize, forward, accuracy. Resident: the plain scorer (``fast=False``), images in
memory. "The rate": MACs a second of a product of two square matrices, taken in turn with the scorings. The table
``profile`` is of what happens on a CPU alone.
"""

import argparse
import cProfile
import pstats
import resource
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

import masksearch as ms
from masksearch.cost.timing import synchronize
from masksearch.experiment.process_setup import prepare
from masksearch.experiment.settings.all_settings import RunSettings
from masksearch.scoring.paths.network_path import images_per_pass
from masksearch.utils.seeds import torch_generator


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


def walk(
    space: ms.MaskSpace, scorer: ms.Scorer, density: float, radius: int, start: ms.Mask | None = None, calls: int = 20
) -> Callable[[], None]:
    """Scorings of annealing's proposals at one radius, 20 a call, so that cheap ones are timed together."""
    share = radius / min(density, 1 - density) / space.n_units
    searcher = ms.searchers.Annealing(radius_start=share, radius_end=share)
    searcher.start(ms.Problem(space, density, ms.Budget(10**9), seed=0, start=start))

    def run() -> None:
        for _ in range(calls):
            proposals = searcher.ask()
            searcher.tell(proposals, scorer.score(proposals))

    return run


def thesis_way(
    model: torch.nn.Module, space: ms.WeightSpace, root: str, images: int, device: torch.device
) -> Callable[[], float]:
    """The published scoring."""
    from torchvision import datasets, transforms

    prepare = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    loader = DataLoader(Subset(datasets.MNIST(root, transform=prepare), range(images)), batch_size=64)
    masks = cycle([space.random(0.1, generator=torch_generator(seed)) for seed in range(8)])

    def run() -> float:
        right = 0
        with torch.no_grad(), space.applied(model, next(masks)):
            for batch, labels in loader:
                right += int((model(batch.to(device)).argmax(1) == labels.to(device)).sum())
        return right / images

    return run


def chain(root: str, seconds: float, device: torch.device) -> None:
    """thesis_mlp on 2,000 images of MNIST at 90 %, from a random mask and from one that a search has found."""
    data = ms.load_data("mnist", root)
    model = ms.build_model("thesis_mlp", data).to(device).eval()
    space = ms.weight_space(model)
    smooth = ms.Scorer(model, space, data.search, "calibrated_loss")
    found = ms.search(space, ms.searchers.Annealing(), smooth, 0.1, budget=2000).best.mask
    assert found is not None
    reached = ms.Scorer(model, space, data.search)(found).value
    print("| thesis_mlp, 90 %, 2,000 images | ms per scoring | x the thesis' way | x resident |")
    print("|---|---:|---:|---:|")
    for radius in (100, 4):
        scorers = [ms.Scorer(model, space, data.search, fast=fast) for fast in (False, True, True)]
        later = f"scorer, from {reached:.0%} accuracy"
        runs = {
            "the thesis' way": thesis_way(model, space, root, len(data.search), device),
            "resident": walk(space, scorers[0], 0.1, radius),
            "scorer": walk(space, scorers[1], 0.1, radius),
            later: walk(space, scorers[2], 0.1, radius, found),
        }
        times = in_turn(runs, seconds)
        times |= {name: times[name] / 20 for name in ("resident", "scorer", later)}
        published = times["the thesis' way"]
        for name, median in times.items():
            ratios = f"{published / median:.1f} | {times['resident'] / median:.1f}"
            print(f"| {name}, radius {radius} | {1e3 * median:.2f} | {ratios} |", flush=True)


_PARTS = {
    "proposing": ("annealing.py", "ask"),
    "learning from the score": ("annealing.py", "tell"),
    "what the move does to the weights": ("incremental.py", "_prepare"),
    "what that does to the layers": ("incremental.py", "_part_logits"),
    "margins": ("bounded_accuracy.py", "_evaluate"),
    "doubtful images": ("bounded_accuracy.py", "_right_images"),
}


def profile(root: str) -> None:
    """Where the time of thesis_mlp's scorings goes, in seconds of this thread; profiling itself slows Python down."""
    data = ms.load_data("mnist", root)
    model = ms.build_model("thesis_mlp", data).eval()
    space = ms.weight_space(model)
    shares: dict[str, list[float]] = {name: [] for name in (*_PARTS, "everything else")}
    for radius in (100, 4):
        run = walk(space, ms.Scorer(model, space, data.search), 0.1, radius)
        run()
        profiler = cProfile.Profile(thread_time)
        profiler.enable()
        for _ in range(50):
            run()
        profiler.disable()
        seconds = {(Path(file).name, name): row[3] for (file, _, name), row in profiler_rows(profiler).items()}
        total = seconds["speed.py", "run"]
        for part, where in _PARTS.items():
            shares[part].append(seconds[where] / total)
        shares["everything else"].append(1 - sum(shares[part][-1] for part in _PARTS))
    print("\n| share of a scoring's time, % | radius 100 | radius 4 |")
    print("|---|---:|---:|")
    for part, values in shares.items():
        print(f"| {part} | {' | '.join(f'{100 * value:.0f}' for value in values)} |")


def profiler_rows(profiler: cProfile.Profile) -> dict[tuple[str, int, str], tuple[float, ...]]:
    """(file, line, function) -> calls, calls, own seconds, seconds with what it calls."""
    rows = vars(pstats.Stats(profiler))["stats"]
    return {where: row[:4] for where, row in rows.items()}


def square_product(device: torch.device) -> tuple[Callable[[], None], int]:
    """A product of two square matrices, and its MACs: on a GPU large ones, rounded as convolutions are."""
    side = 1024 if device.type == "cpu" else 8192
    one, two = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    matmul = torch.backends.cuda.matmul

    def product() -> None:
        before, matmul.allow_tf32 = matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        one @ two
        matmul.allow_tf32 = before

    return waited_for(product, device), side**3


def waited_for(run: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The same, until the device is done."""

    def whole() -> None:
        run()
        synchronize(device)

    return whole


def scorings(scorer: ms.Scorer, masks: Iterator[ms.Mask]) -> Callable[[], ms.Score]:
    """Scorings of one mask after the other."""
    return lambda: scorer(next(masks))


def filters(seconds: float, device: torch.device) -> None:
    """Networks for CIFAR-10 on 1,000 random images, masks of half to a fifth of the filters."""
    print("\n| filter masks, 1,000 images | resident, ms | scorer, ms | x resident | kept MACs, % | of the rate, % |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, density in (("vgg16_bn", 0.2), ("basic_cnn", 0.3), ("resnet20", 0.2)):
        model = ms.build_model(name, (3, 32, 32)).to(device).eval()
        space = ms.filter_space(model, torch.zeros(1, 3, 32, 32, device=device))
        generator = torch_generator(0)
        split = ms.Split(torch.randn(1000, 3, 32, 32, generator=generator), torch.randint(10, (1000,)))
        masks = cycle([space.random(density, "layerwise", torch_generator(seed)) for seed in range(8)])
        plain, fast = ms.Scorer(model, space, split, fast=False), ms.Scorer(model, space, split)
        product, product_macs = square_product(device)
        runs = {"resident": scorings(plain, masks), "scorer": scorings(fast, masks), "product": product}
        times = in_turn(runs, seconds)
        kept = space.kept_macs(next(masks))
        share = kept / space.kept_macs(space.full())
        rate = 1000 * kept / times["scorer"] / (product_macs / times["product"])
        print(
            f"| {name}, {1 - density:.0%} | {1e3 * times['resident']:.0f} | {1e3 * times['scorer']:.0f} | "
            f"{times['resident'] / times['scorer']:.1f} | {100 * share:.1f} | {100 * rate:.0f} |",
            flush=True,
        )


def resident_bytes(device: torch.device) -> int:
    """Of this process, now; on a GPU, of its tensors there."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes(device: torch.device) -> int:
    """The most there have been."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def activation_bytes(model: torch.nn.Module, images: Tensor) -> int:
    """All outputs of all layers for one batch."""
    sizes: list[int] = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, output: sizes.append(output.numel() * output.element_size()))
        for module in model.modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return sum(sizes)


def large(seconds: float, device: torch.device) -> None:
    """vgg16's 14.7 million weights at radius 100: what a scoring costs beside its forward pass, and in memory.

    Peak memory is taken first, before anything else has raised it.
    """
    model = ms.build_model("vgg16", (3, 32, 32)).to(device).eval()
    space = ms.weight_space(model)
    split = ms.Split(torch.randn(500, 3, 32, 32), torch.randint(10, (500,)))
    start = space.random(0.1, generator=torch_generator(0))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32, device=device))  # libraries are loaded
    before = resident_bytes(device)
    scorer = ms.Scorer(model, space, split, "loss")
    steps = walk(space, scorer, 0.1, 100, start, calls=1)
    steps()
    steps()
    peak = peak_bytes(device) - before
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    images = split.images.numel() * split.images.element_size()
    on_it = split.images.to(device)
    size = images_per_pass(model, on_it)
    needed = weights + images + activation_bytes(model, on_it[:size])
    batches = on_it.contiguous(memory_format=torch.channels_last).split(size)

    def forward() -> None:
        with torch.no_grad():
            for batch in batches:
                model(batch)

    product, product_macs = square_product(device)
    times = in_turn({"forward": waited_for(forward, device), "scoring": steps, "product": product}, seconds)
    rate = 500 * ms.cost.macs(model, split.images[:1]) / times["scoring"] / (product_macs / times["product"])
    print("\n| vgg16, weight masks, 500 images, radius 100 | |")
    print("|---|---:|")
    print(f"| forward passes alone, ms | {1e3 * times['forward']:.0f} |")
    print(f"| proposal and scoring, ms | {1e3 * times['scoring']:.0f} |")
    print(f"| outside of the forward passes, % | {100 * (1 - times['forward'] / times['scoring']):.1f} |")
    print(f"| of the rate (masked weights are multiplied, too), % | {100 * rate:.0f} |")
    print(f"| weights, images and one batch's activations, MB | {needed / 1e6:.0f} |")
    print(f"| peak memory of a search's scorings, MB | {peak / 1e6:.0f} ({peak / needed:.2f} x) |", flush=True)


def whole_search(root: str, device: torch.device) -> None:
    """As many scorings as the thesis' search for the MLP."""
    data = ms.load_data("mnist", root)
    model = ms.build_model("thesis_mlp", data).to(device).eval()
    space = ms.weight_space(model)
    print(
        "\n| 42,700 scorings, thesis_mlp, 90 % | seconds | ms per scoring | stopped early, % | images seen, % | score |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for objective in ("accuracy", "calibrated_loss"):
        scorer = ms.Scorer(model, space, data.search, objective)
        start = perf_counter()
        history = ms.search(space, ms.searchers.Annealing(), scorer, 0.1, budget=42_700)
        seconds = perf_counter() - start
        stopped = sum(not trial.score.exact for trial in history) / len(history)
        seen = sum(trial.score.images for trial in history) / len(history) / len(data.search)
        print(
            f"| {objective} | {seconds:.0f} | {1e3 * seconds / len(history):.2f} | {100 * stopped:.0f} | "
            f"{100 * seen:.0f} | {history.best.score.value:.4f} |",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="folder with MNIST")
    tables = ("large", "chain", "profile", "filters", "search")
    parser.add_argument("--only", nargs="+", choices=tables, default=tables, help="tables to print")
    parser.add_argument("--seconds", type=float, default=5.0, help="per row")
    parser.add_argument("--device", default="cpu")
    flags = parser.parse_args()
    try:
        device = prepare(RunSettings(device=flags.device))
    except ms.InputError as error:
        parser.error(str(error))
    if device.type != "cpu" and set(flags.only) == {"profile"}:
        parser.error("--only profile: it is of what happens on a CPU alone")
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}\n")
    if "large" in flags.only and sys.platform == "linux":
        large(flags.seconds, device)
    if "chain" in flags.only:
        chain(flags.root, flags.seconds, device)
    if "profile" in flags.only and device.type == "cpu":
        profile(flags.root)
    if "filters" in flags.only:
        filters(flags.seconds, device)
    if "search" in flags.only:
        whole_search(flags.root, device)


if __name__ == "__main__":
    main()
