"""How many images a second does retraining see? The trainer against a textbook loop, in turn, in one run.

    python benchmarks/training_speed.py DATA_ROOT [--turns 3]

The textbook loop: torchvision's transforms on PIL images, one by one, in a DataLoader with two workers that are kept,
``zero_grad``, loss, ``backward``, ``step``, and the loss read after every step. Both train with SGD and momentum,
batches of 128, and crops and flips for the colour images; one epoch each, medians over turns. Pruned: the filters or
hidden units of highest norm, a fifth in every layer, are left, the others deleted.
"""

import argparse
from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

import masksearch as ms
from masksearch.seeds import torch_generator

BATCH = 128


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="folder with MNIST")
    parser.add_argument("--turns", type=int, default=3)
    flags = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| network | textbook, images a second | trainer | ratio |")
    print("|---|---:|---:|---:|")
    scale = [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
    colour = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *scale])
    for name, shape, n in (("resnet20", (3, 32, 32), 2048), ("lenet_300_100", (1, 28, 28), 20_480)):
        grey = shape[0] == 1
        whole = datasets.MNIST(flags.root, transform=transforms.Compose(scale)) if grey else Pictures(n, colour)
        pictures = Subset(whole, range(n))
        split = ms.Split(torch.randn(n, *shape, generator=torch_generator(0)), torch.arange(n) % 10)
        space = ms.filter_space(ms.build_model(name, shape), torch.zeros(1, *shape))
        mask = space.top_k(ms.criteria.filter_l1(ms.build_model(name, shape), space), 0.2, "layerwise")
        for kind in ("dense", "80 % pruned"):
            models = [ms.build_model(name, shape) for _ in range(2)]
            if kind != "dense":
                models = [ms.prune(model, space, mask) for model in models]
            runs = (textbook(models[0], pictures), resident(models[1], split, not grey))
            seconds: tuple[list[float], list[float]] = ([], [])
            for turn in range(flags.turns + 1):
                for run, taken in zip(runs, seconds, strict=True):
                    start = perf_counter()
                    run()
                    if turn:  # the first one is a warm-up
                        taken.append(perf_counter() - start)
            slow, fast = (n / float(np.median(taken)) for taken in seconds)
            print(f"| {name}, {kind} | {slow:,.0f} | {fast:,.0f} | {fast / slow:.2f} |", flush=True)


if __name__ == "__main__":
    main()
