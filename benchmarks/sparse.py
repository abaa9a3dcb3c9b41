"""From which sparsity on does an unstructured mask buy time? Prints a Markdown table of this machine.

python benchmarks/sparse.py --threads 1
"""

import argparse
import platform

import torch

from masksearch.pruning.sparse_inference import break_even


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 2048], help="of square linear layers")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.7, 0.8, 0.9, 0.95, 0.98])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64], help="inputs multiplied at once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=0.5, help="per measurement")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)

    table = break_even(settings.sizes, settings.sparsities, settings.rows, settings.device, settings.seconds)
    sparsities = sorted(settings.sparsities)
    print(f"torch {torch.__version__}, {settings.device}, {platform.machine()}, {settings.threads} thread(s), float32.")
    print("Dense seconds / CSR seconds (medians): above 1, the mask buys time.\n")
    print("| layer | rows | " + " | ".join(f"{sparsity:.0%}" for sparsity in sparsities) + " | breaks even at |")
    print("|" + "---|" * (len(sparsities) + 3))
    for row in table:
        speedups = " | ".join(f"{row.speedups[sparsity]:.2f}" for sparsity in sparsities)
        point = "never" if row.sparsity is None else f"{row.sparsity:.0%}"
        print(f"| {row.size} x {row.size} | {row.rows} | {speedups} | {point} |")


if __name__ == "__main__":
    main()
