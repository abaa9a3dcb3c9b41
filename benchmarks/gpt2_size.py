"""How long does the filter space of GPT-2 with 124 million random weights take, and how much memory?

    python -m benchmarks.gpt2_size

Prints a Markdown table of one row. Seconds are those of one core. The peak is that of the process, less what it held
before the network was built, as a multiple of the float32 weights; the network itself is included.
"""

import resource
import warnings
from pathlib import Path
from time import perf_counter, process_time

import torch

import masksearch as ms
from benchmarks.unit_kinds import unit_kinds


def main() -> None:
    """Measure once, and print the result."""
    from transformers import GPT2Config, GPT2LMHeadModel

    warnings.simplefilter("ignore")
    small = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, use_cache=False)).eval()
    ms.filter_space(small, {"input_ids": torch.arange(4)[None]})  # imports that a first run needs
    before = _resident()
    model = GPT2LMHeadModel(GPT2Config(use_cache=False)).eval()
    weights = sum(parameter.numel() for parameter in model.parameters())
    start, wall = process_time(), perf_counter()
    space = ms.filter_space(model, {"input_ids": torch.arange(16)[None]})
    seconds, wall = process_time() - start, perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in unit_kinds(model, space).items() if n)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print("| network | weights | units | in layers | space, s | on the clock, s | peak / float32 weights |")
    print("|---|---:|---|---:|---:|---:|---:|")
    costs = f"{seconds:.1f} | {wall:.1f} | {peak / (4 * weights):.1f}"
    print(f"| GPT-2 | {weights:,} | {kinds} | {len(space.layers)} | {costs} |")


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
