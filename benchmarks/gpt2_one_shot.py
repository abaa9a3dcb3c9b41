"""Time and peak memory of ``ms.one_shot`` on GPT-2 with 124 million random weights, half of them pruned.

    python -m benchmarks.gpt2_one_shot [--methods magnitude wanda sparsegpt] [--texts 8] [--length 64]

Prints a Markdown table; every method runs in a process of its own, on one core. The peak is that of the process, less
what it held before the network was built, as a multiple of the float32 weights; the network itself and the pruned copy
are included.
"""

import argparse
import resource
import subprocess
import sys
import warnings
from time import perf_counter, process_time

import torch

import masksearch as ms
from benchmarks.gpt2_size import _resident as resident

METHODS = ("magnitude", "wanda", "sparsegpt")


def measure(method: str, texts: int, length: int) -> str:
    """Prune once, and return the row of the table."""
    from transformers import GPT2Config, GPT2LMHeadModel

    warnings.simplefilter("ignore")
    small = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, use_cache=False)).eval()
    ms.one_shot(small, torch.randint(50, (8, 16)), sparsity=0.5)  # imports that a first run needs
    before = resident()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(use_cache=False)).eval()
    weights = sum(parameter.numel() for parameter in model.parameters())
    tokens = torch.randint(50257, (texts, length))
    start, wall = process_time(), perf_counter()
    result = ms.one_shot(model, tokens, sparsity=0.5, method=method)
    seconds, wall = process_time() - start, perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    costs = f"{seconds:.0f} | {wall:.0f} | {peak / (4 * weights):.1f}"
    return f"| {method} | {weights:,} | {result.space.n_units:,} | {texts} x {length} | {costs} |"


def main() -> None:
    """Measure every method once, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--length", type=int, default=64, help="tokens per text")
    parser.add_argument("--one", choices=METHODS, help="one method, in this process, without the head of the table")
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(arguments.one, arguments.texts, arguments.length))
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| method | weights | in masks | texts x tokens | s | on the clock, s | peak / float32 weights |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    sizes = ["--texts", str(arguments.texts), "--length", str(arguments.length)]
    for method in arguments.methods:
        command = [sys.executable, "-m", "benchmarks.gpt2_one_shot", "--one", method, *sizes]
        print(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()
