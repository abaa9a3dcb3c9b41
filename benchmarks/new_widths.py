"""What do masks cost whose widths a GPU's kernels have not met yet? Pruned networks against masked ones of one shape.

    python benchmarks/new_widths.py [--networks resnet20 vgg16_bn torchvision:resnet50] [--device cuda]

Scorings of random filter masks that keep a quarter of the filters, on 1,000 random images (128 of 224 x 224 for
ResNet-50), when a mask comes for the first time and for the second; and epochs of 79 batches of 64 images, the first
and the second one, of four networks pruned so. With cuDNN choosing its algorithms by rules, and by timing them at every
new shape (``torch.backends.cudnn.benchmark``), each in a process of its own, since they share what has been chosen.
"""

import argparse
import sys
from multiprocessing import get_context
from time import perf_counter

import numpy as np
import torch

import masksearch as ms
from masksearch.cost.timing import synchronize
from masksearch.experiment.process_setup import prepare
from masksearch.experiment.settings.all_settings import RunSettings
from masksearch.scoring.paths.compact import CompactPath
from masksearch.scoring.paths.network_path import Path, ReferencePath
from masksearch.utils.seeds import torch_generator

MASKS, TRAININGS = 12, 4
SETTINGS = ms.TrainSettings(epochs=1, batch_size=64, optimizer="adam", lr=1e-3)


def milliseconds(path: Path, masks: list[ms.Mask], device: torch.device) -> float:
    """Median over masks, the first two left out."""
    taken = []
    for mask in masks:
        start = perf_counter()
        path.logits(ms.Proposal.of(mask))
        synchronize(device)
        taken.append(1000 * (perf_counter() - start))
    return float(np.median(taken[2:]))


def epoch_seconds(network: torch.nn.Module, device: torch.device) -> float:
    """One epoch of training."""
    split = ms.Split(torch.randn(5000, 3, 32, 32), torch.randint(10, (5000,)))
    start = perf_counter()
    ms.train(network, split, SETTINGS, device=device)
    synchronize(device)
    return perf_counter() - start


def measure(name: str, timed: bool, device: torch.device) -> None:
    """Print a row."""
    torch.backends.cudnn.benchmark = timed
    size, n = (224, 128) if "resnet50" in name else (32, 1000)
    model = ms.build_model(name, (3, size, size)).to(device).eval()
    space = ms.filter_space(model, torch.zeros(1, 3, size, size, device=device))
    images = torch.randn(n, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    masks = [space.random(0.25, "global", torch_generator(5000 + seed), on_empty="keep_one") for seed in range(MASKS)]
    row = []
    for path in (ReferencePath(model, space, images, 1000), CompactPath(model, space, images, 1000)):
        row += [f"{milliseconds(path, masks, device):.1f}" for _ in range(2)]
    pruned = [ms.prune(model, space, mask) for mask in masks[:TRAININGS]] if size == 32 else []
    epochs = [[epoch_seconds(network, device) for _ in range(2)] for network in pruned]
    row += [f"{median:.2f}" for median in np.median(epochs, 0)] if epochs else ["–", "–"]
    print(f"| {name} | {'by timing' if timed else 'by rules'} | {' | '.join(row)} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["resnet20", "vgg16_bn", "torchvision:resnet50"])
    parser.add_argument("--device", default="cuda")
    flags = parser.parse_args()
    try:
        device = prepare(RunSettings(device=flags.device))
    except ms.InputError as error:
        parser.error(str(error))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}\n")
    print("| network | algorithms | masked, new: ms | known | pruned, new: ms | known | first epoch, s | second |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name in flags.networks:
        for timed in (False, True):
            process = get_context("spawn").Process(target=measure, args=(name, timed, device))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
