"""How many images a second does retraining see? The trainer against a textbook loop, in turn, in one run.

    python benchmarks/training_speed.py DATA_ROOT [--turns 3]

The textbook loop: torchvision's transforms on PIL images, one by one, in a DataLoader with two workers that are kept,
``zero_grad``, loss, ``backward``, ``step``, and the loss read after every step. Both train with SGD and momentum,
batches of 128, and crops and flips for the colour images; one epoch each, medians over turns. Each has a process of its
own; the trainer's keeps freed memory, as ``masksearch run`` does. Pruned: the filters or hidden units of highest norm,
a fifth in every layer, are left, the others deleted.
"""

import argparse
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

import masksearch as ms
from masksearch.cli.run_command import keep_freed_memory
from masksearch.utils.seeds import torch_generator

BATCH = 128
_NETWORKS = {"resnet20": ((3, 32, 32), 2048), "lenet_300_100": ((1, 28, 28), 20_480)}  # shape and number of images


class Pictures(Dataset[tuple[object, int]]):
    """Random colour pictures, handed out as torchvision's CIFAR-10 does."""

    def __init__(self, n: int, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.pixels = torch.randint(0, 256, (n, 32, 32, 3), generator=torch_generator(0), dtype=torch.uint8).numpy()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[object, int]:
        return self.transform(Image.fromarray(self.pixels[index])), index % 10


def textbook(model: nn.Module, dataset: Dataset[tuple[object, int]]) -> Callable[[], None]:
    """One epoch of the loop that tutorials show."""
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    criterion = nn.CrossEntropyLoss()

    def run() -> None:
        model.train()
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(images), labels)
            loss.backward()
            optimizer.step()
            total += loss.item()

    return run


def resident(model: nn.Module, split: ms.Split, augment: bool) -> Callable[[], None]:
    """One epoch of the trainer."""
    settings = ms.TrainSettings(epochs=1, batch_size=BATCH, optimizer="sgd", lr=0.01, momentum=0.9)
    return lambda: void(ms.train(model, split, settings, augment=augment))


def void(_: object) -> None:
    """Forget it."""


def network(name: str, shape: tuple[int, int, int], pruned: bool) -> nn.Module:
    """The dense network, or what is left of it."""
    model = ms.build_model(name, shape)
    if not pruned:
        return model
    space = ms.filter_space(model, torch.zeros(1, *shape))
    return ms.prune(model, space, space.top_k(ms.criteria.filter_l1(model, space), 0.2, "layerwise"))


def side(turns: Connection, trainer: bool, name: str, pruned: bool, root: str) -> None:
    """In a process of its own: an epoch whenever it is asked for, answered with its seconds."""
    shape, n = _NETWORKS[name]
    grey = shape[0] == 1
    model = network(name, shape, pruned)
    if trainer:
        split = ms.Split(torch.randn(n, *shape, generator=torch_generator(0)), torch.arange(n) % 10)
        keep_freed_memory()
        run = resident(model, split, not grey)
    else:
        scale = [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
        colour = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *scale])
        whole = datasets.MNIST(root, transform=transforms.Compose(scale)) if grey else Pictures(n, colour)
        run = textbook(model, Subset(whole, range(n)))
    while turns.recv():
        start = perf_counter()
        run()
        turns.send(perf_counter() - start)
    del run  # ends the workers of the loader, which a process that just exits leaves to complain


def in_turn(turns: int, name: str, pruned: bool, root: str) -> list[float]:
    """Median seconds of an epoch of the textbook loop and of the trainer."""
    context = get_context("spawn")
    ends, processes = [], []
    for trainer in (False, True):
        own, other = context.Pipe()
        process = context.Process(target=side, args=(other, trainer, name, pruned, root))
        process.start()
        ends.append(own)
        processes.append(process)
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns + 1):
        for end, taken in zip(ends, seconds, strict=True):
            end.send(True)
            if (one := end.recv()) and turn:  # the first one is a warm-up
                taken.append(one)
    for end, process in zip(ends, processes, strict=True):
        end.send(False)
        process.join()
    return [float(np.median(taken)) for taken in seconds]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="folder with MNIST")
    parser.add_argument("--turns", type=int, default=3)
    flags = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| network | textbook, images a second | trainer | ratio |")
    print("|---|---:|---:|---:|")
    for name, (_, n) in _NETWORKS.items():
        for kind in ("dense", "80 % pruned"):
            slow, fast = (n / median for median in in_turn(flags.turns, name, kind != "dense", flags.root))
            print(f"| {name}, {kind} | {slow:,.0f} | {fast:,.0f} | {fast / slow:.2f} |", flush=True)


if __name__ == "__main__":
    main()
