"""Is masked = pruned, and how long does it take to find out? A row per network: the package's and torchvision's.

    python benchmarks/filter_spaces.py [--size 224] [--only resnet18 ...]

Prints a Markdown table. Weights and normalisation statistics are randomised; differences are the largest over random
masks at densities .9, .5 and .2, as a share of the outputs' standard deviation. Seconds: making the space with its
proof, and the slowest of the prunings.
"""

import argparse
from time import perf_counter

import torch
from torch import nn

import masksearch as ms
from masksearch.utils.errors import InputError

TORCHVISION = (
    *("resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "efficientnet_b0"),
    *("regnet_y_400mf", "shufflenet_v2_x1_0", "googlenet", "squeezenet1_1", "convnext_tiny", "vit_b_16", "swin_t"),
)


def randomise(model: nn.Module) -> None:
    """Weights that hide nothing: no zero heads, no tiny layer scales, no fresh BatchNorm statistics."""
    generator = torch.Generator().manual_seed(0)
    for tensor in model.parameters():
        scale = (2 / max(1, tensor[0].numel())) ** 0.5 if tensor.ndim > 1 else 1.0
        tensor.data.copy_(scale * (torch.randn(tensor.shape, generator=generator) + 0.1))
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("running_mean"):
            buffer.normal_(generator=generator)


def difference(model: nn.Module, space: ms.FilterSpace, images: torch.Tensor) -> tuple[float, float]:
    """Largest difference of masked and pruned outputs over their deviation; seconds of the slowest pruning."""
    worst, slowest = 0.0, 0.0
    for density in (0.9, 0.5, 0.2):
        mask = space.random(density, "layerwise", torch.Generator().manual_seed(1), on_empty="keep_one")
        start = perf_counter()
        small = ms.prune(model, space, mask).eval()
        slowest = max(slowest, perf_counter() - start)
        with torch.no_grad(), space.applied(model, mask):
            masked = model(images)
        with torch.no_grad():
            worst = max(worst, float((masked - small(images)).abs().max() / masked.std()))
    return worst, slowest


def row(name: str, size: int) -> str:
    """One network's row."""
    shape = (3, size, size) if name.startswith("torchvision:") else (3, 32, 32)
    try:
        model = ms.build_model(name, shape).eval()
        start = perf_counter()
        space = ms.filter_space(model, torch.zeros(1, *shape))
        seconds = perf_counter() - start
    except InputError as error:
        return f"| {name} | refused: {error} | | | | | |"
    randomise(model)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(2))
    single, prune_seconds = difference(model, space, images)
    double, _ = difference(model.double(), space, images.double())
    units = f"{space.n_units} in {len(space.layers)}"
    costs = f"{single:.1e} | {double:.1e} | {seconds:.1f} | {prune_seconds:.2f}"
    return f"| {name} | {units} | {len(space.left_out)} | {costs} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=224, help="of torchvision's images; the package's are 32x32")
    parser.add_argument("--only", nargs="+", help="names of networks")
    flags = parser.parse_args()
    names = flags.only or [*ms.models.MODELS, *(f"torchvision:{name}" for name in TORCHVISION)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, torchvision at {flags.size}x{flags.size}\n")
    print("| network | units in layers | layers left out | float32 | float64 | space, s | prune, s |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in names:
        print(row(name, flags.size), flush=True)


if __name__ == "__main__":
    main()
