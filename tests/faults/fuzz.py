"""Nonsense on command lines and in calls of the API, drawn by Hypothesis; forged masks and folders of networks."""

import io
import json
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import masksearch as ms
from masksearch.cli import main
from masksearch.utils.errors import InputError
from masksearch.utils.files import load_tensors, read_json, save_tensors, write_json
from tests.faults.campaign import Part, Report, scratch
from tests.faults.forks import Ended, run

__all__ = ["fuzz_parts"]

NUMBERS = [
    "0", "-1", "1", "1.5", "1e20", "-1e20", "1e400", "nan", "inf", "99999999999999999999", "100000000", "0x10", "1_0",
    "\u00b2", "1,2", "true", "none", "", " ", "0.9999999999", "1e-320",
]  # fmt: skip
TEXTS = [
    "", " ", "x", "a/b", "../x", "[red]x", "a[/b]", "a?b", "a#b", "a%41b", "{seed}", "\n", "\x1b[2J", "\udcff",
    "\u202e", "x" * 300, "dense", "fronts", ".", "..", "-", "--", "a=b", "magnitude", "snip@3ep",
    "magnitude@gradual:2ep", "magnitude:erk", "os:system", "evil.py:f", "/etc/passwd", "/dev/null", "meta", "hpu",
    "cuda", "mps", "vulkan",
    "best:9ep", "9999999999999ep", "imagefolder:", "imagefolder:/nowhere", "lenet_300_100:1e9", "torchvision:x",
]  # fmt: skip
_FEW = [
    *("--seeds", "1", "--epochs", "1", "--budget", "2", "--model", "lenet_300_100:0.05", "--sparsity", "0.8"),
    *("--methods", "magnitude", "annealing", "--train-examples", "100", "--threads", "1", "--executor", "inline"),
]  # fmt: skip


def _changes() -> list[list[str]]:
    """Return the words of every flag and setting with every value that suits its type, and with some others."""
    from masksearch.experiment.settings.catalogue import flag_keys, settings_by_key

    found = [[flag, value] for flag in ("--recipe", "--scale", "--parts", "--lits", "-x") for value in TEXTS[::6]]
    for key, setting in settings_by_key().items():
        values = NUMBERS if setting.type.kind in (int, float) else TEXTS + NUMBERS[::5]
        found += [[setting.flag, value] if key in flag_keys() else ["--set", f"{key}={value}"] for value in values]
    return found


_TOGETHER = 25  # command lines that a child checks one after the other, since a fork takes longer than most checks


def command_lines(report: Report, share: float) -> None:
    """Command lines with one or two nonsensical values: accepted, or refused in one line before any work.

    A child calls ``main`` for 25 lines; a line that ends the child, and those after it, get a child each.
    """
    change = st.sampled_from(_changes())
    several = st.one_of(st.tuples(change), st.tuples(change), st.tuples(change, change))
    lines: list[list[list[str]]] = []

    @settings(
        max_examples=max(5, round(1000 * share)), derandomize=True, database=None, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(several)
    def draw(changes: tuple[list[str], ...]) -> None:
        lines.append(list(changes))

    draw()
    for start in range(0, len(lines), _TOGETHER):
        some = lines[start : start + _TOGETHER]
        out = run(partial(_checked, some), timeout=300).out.splitlines()
        found = [Ended(*json.loads(line.partition("\t")[2])) for line in out if line.startswith("line\t")]
        print(f"command lines: {report.tried} of {len(lines)}", file=sys.stderr, flush=True)
        for changes, ended in zip_longest(some, found):
            if ended is None:
                ended = _alone(changes)
            outcome = {"done": "right", "refused": "refused"}.get(ended.kind, ended.kind)
            report.add(outcome, " ".join(ascii(word) for change in changes for word in change), ended.err)


def _alone(changes: list[list[str]]) -> Ended:
    """Check a command line in a child of its own."""
    ended = run(partial(_checked, [changes]), timeout=120)
    line = next((line for line in ended.out.splitlines() if line.startswith("line\t")), None)
    return ended if line is None else Ended(*json.loads(line.partition("\t")[2]))


def _checked(lines: list[list[list[str]]]) -> None:
    """Run all checks of command lines, and no work, each in a folder of its own; print how each has ended."""
    from masksearch.experiment import sweep

    sweep.run_groups = lambda *_: None
    told = sys.stdout
    for changes in lines:
        folder, given_flags, output = scratch(), {change[0] for change in changes}, (io.StringIO(), io.StringIO())
        args = ["run", *_without(_FEW, given_flags), *(word for change in changes for word in change)]
        args += [] if "--runs" in given_flags else ["--runs", str(folder)]
        os.chdir(folder)
        sys.stdout, sys.stderr = output
        begun = time.monotonic()
        try:
            code = main(args)
        except BaseException:
            code = 1
            traceback.print_exc()
        texts = [stream.getvalue() for stream in output]
        print("line", json.dumps([code, *texts, time.monotonic() - begun]), sep="\t", file=told, flush=True)
        shutil.rmtree(folder, ignore_errors=True)


def _without(args: list[str], given_flags: set[str]) -> list[str]:
    """Return the usual flags without those that are given."""
    kept, leave = [], False
    for word in args:
        leave = word in given_flags if word.startswith("--") else leave
        kept += [] if leave else [word]
    return kept


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.two(self.one(x.flatten(1)).relu())


def calls() -> dict[str, Callable[[Any], object]]:
    """Return {name: function of one nonsensical value} of the API; built in a child, since torch computes."""
    torch.manual_seed(0)
    model, images, labels = _Net(), torch.rand(40, 3, 2, 2), torch.arange(40) % 3
    data = ms.Data.from_tensors("mine", (images, labels), (images, labels))
    space = ms.weight_space(model)
    other = ms.weight_space(nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)))
    filters = ms.filter_space(model, images[:1])
    few, mask = ms.TrainSettings(epochs=1), space.random(0.5)
    scorer = ms.Scorer(model, space, data.search, objective="loss")
    find = partial(ms.search, space, "random_search", scorer)
    folder = scratch()
    batches = [(images, labels)]
    return {
        "weight_space(exclude=)": lambda value: ms.weight_space(model, exclude=value),
        "filter_space(exclude=)": lambda value: ms.filter_space(model, images[:1], exclude=value),
        "filter_space(example)": lambda value: ms.filter_space(model, value),
        "space.random(density)": lambda value: space.random(value),
        "space.random(scope)": lambda value: space.random(0.5, scope=value),
        "space.top_k(saliency)": lambda value: space.top_k(value, 0.5),
        "space.applied(mask)": lambda value: space.apply(_Net(), value),
        "Mask.of_units": lambda value: ms.Mask.of_units(space, value),
        "Mask.load": lambda value: ms.Mask.load(value, space),
        "mask.hamming": lambda value: mask.hamming(value),
        "TrainSettings(epochs)": lambda value: ms.TrainSettings(epochs=value),
        "TrainSettings(batch_size)": lambda value: ms.TrainSettings(batch_size=value),
        "TrainSettings(lr)": lambda value: ms.TrainSettings(lr=value),
        "TrainSettings(milestones)": lambda value: ms.TrainSettings(milestones=value),
        "Annealing(chains)": lambda value: ms.searchers.Annealing(chains=value),
        "Annealing(within)": lambda value: ms.searchers.Annealing(within=value),
        "search(density)": lambda value: find(value, 3),
        "search(budget)": lambda value: find(0.5, value),
        "search(seed)": lambda value: find(0.5, 3, value),
        "search(searcher)": lambda value: ms.search(space, value, scorer, 0.5, 3),
        "search(scorer)": lambda value: ms.search(space, "random_search", value, 0.5, 3),
        "search(start)": lambda value: find(0.5, 3, start=value),
        "search(batch)": lambda value: find(0.5, 3, batch=value),
        "search(keep)": lambda value: find(0.5, 3, keep=value),
        "search(folder)": lambda value: find(0.5, 3, folder=folder / str(value)[:300]),
        "search(other space)": lambda value: ms.search(other, "random_search", scorer, 0.5, 3),
        "Scorer(mask)": lambda value: scorer(value),
        "Scorer(split)": lambda value: ms.Scorer(model, space, value),
        "Scorer(objective)": lambda value: ms.Scorer(model, space, data.search, value),
        "Scorer(device)": lambda value: ms.Scorer(model, space, data.search, device=value),
        "Scorer(batch_size)": lambda value: ms.Scorer(model, space, data.search, batch_size=value),
        "ShortTraining(by)": lambda value: ms.ShortTraining(model, space, data.train, data.val, few, by=value),
        "ShortTraining(steps)": lambda value: ms.ShortTraining(model, space, data.train, data.val, few, steps=value),
        "train(split)": lambda value: ms.train(_Net(), value, few),
        "train(val)": lambda value: ms.train(_Net(), data.train, few, val=value),
        "train(seed)": lambda value: ms.train(_Net(), data.train, few, seed=value),
        "train(device)": lambda value: ms.train(_Net(), data.train, few, device=value),
        "train(until)": lambda value: ms.train(_Net(), data.train, few, until=value),
        "train(masks)": lambda value: ms.train(_Net(), data.train, few, masks=value),
        "evaluate(split)": lambda value: ms.evaluate(model, value),
        "evaluate(device)": lambda value: ms.evaluate(model, data.test, device=value),
        "criteria.select(name)": lambda value: ms.criteria.select(value, model, space, batches, 0.5),
        "criteria.select(batches)": lambda value: ms.criteria.select("snip", model, space, value, 0.5),
        "criteria.select(alive)": lambda value: ms.criteria.select("magnitude", model, space, alive=value),
        "prune(mask)": lambda value: ms.prune(model, filters, value),
        "load_pruned": lambda value: ms.load_pruned(value),
        "load_data(name)": lambda value: ms.load_data(value),
        "load_data(train_examples)": lambda value: ms.load_data("digits", train_examples=value),
        "from_tensors(train)": lambda value: ms.Data.from_tensors("mine", value, (images, labels)),
        "Split(labels)": lambda value: ms.Split(images, value),
        "build_model(name)": lambda value: ms.build_model(value, data),
        "latency(example)": lambda value: ms.cost.latency(model, value),
        "macs(example)": lambda value: ms.cost.macs(model, value),
    }


def nonsense() -> Mapping[str, Any]:
    """Return {name: value} that calls get in place of what they need."""
    foreign = ms.weight_space(nn.Linear(3, 3)).full()
    return {
        "None": None, "True": True, "-1": -1, "0": 0, "1.5": 1.5, "1e20": 10**20, "nan": math.nan, "inf": math.inf,
        "text": "x", "empty text": "", "list": [], "numbers": [1, "a"], "dict": {}, "object": object(),
        "class": nn.Linear,
        "bytes": b"x", "complex": 1j, "bool tensor": torch.ones(5, dtype=torch.bool), "no tensor": torch.empty(0),
        "nan tensor": torch.full((40, 12), math.nan), "complex tensor": torch.ones(4, dtype=torch.complex64),
        "uint8": torch.ones(40, 3, 2, 2, dtype=torch.uint8), "images": torch.rand(40, 3, 5, 5),
        "array": np.arange(3) - 1,
        "pair": (torch.rand(4, 3, 2, 2), torch.tensor([0, 1, 2, 9])), "foreign mask": foreign, "meta": "meta",
        "split of other images": ms.Split(torch.rand(8, 1, 9, 9), torch.arange(8) % 3),
        "split of other labels": ms.Split(torch.rand(8, 3, 2, 2), torch.arange(8) + 5),
        "a file": __file__, "a folder": "/",
    }  # fmt: skip


_COUNTS = 53, 31  # of calls and of values, which only a child may build


def api_calls(report: Report, share: float) -> None:
    """Calls with one nonsensical value: an InputError, or a result where the value does make sense."""
    pairs = st.tuples(st.integers(0, _COUNTS[0] - 1), st.integers(0, _COUNTS[1] - 1))

    @settings(
        max_examples=max(5, round(50 * share)), derandomize=True, database=None, deadline=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(pairs, min_size=8, max_size=8, unique=True))
    def trials(some: list[tuple[int, int]]) -> None:
        ended = run(partial(_call, some), timeout=120)
        told = [line.split("\t") for line in ended.out.splitlines() if line.startswith("trial\t")]
        for _, name, outcome, text in told:
            report.add(outcome, name, text)
        if len(told) < len(some):
            report.add(ended.kind if ended.kind != "done" else "crash", f"calls {some}", ended.err)

    trials()


def _call(some: list[tuple[int, int]]) -> int:
    import warnings

    warnings.simplefilter("ignore")
    functions, values = calls(), nonsense()
    assert (len(functions), len(values)) == _COUNTS, (len(functions), len(values))
    for number, place in some:
        name, function = list(functions.items())[number]
        word, value = list(values.items())[place]
        try:
            function(value)
            outcome, text = "right", "accepted"
        except InputError as error:
            outcome, text = "refused", str(error)
        except OSError as error:
            outcome, text = ("refused" if error.filename else "other exception"), f"{type(error).__name__}: {error}"
        except BaseException as error:
            outcome, text = "other exception", f"{type(error).__name__}: {error}"
        print("trial", f"{name} with {word}", outcome, text.replace("\n", " ").replace("\t", " "), sep="\t", flush=True)
    return 0


def forged_files(report: Report, share: float) -> None:
    """Masks and folders of pruned networks with valid checksums and wrong content, and with flipped bits."""
    ended = run(partial(_forge, share), timeout=600)
    told = [line.split("\t") for line in ended.out.splitlines() if line.startswith("trial\t")]
    for _, name, outcome, text in told:
        report.add(outcome, name, text)
    if ended.kind != "done":
        report.add(ended.kind, "forged files", ended.err)


_TYPES = (torch.int64, torch.float32, torch.bool, torch.int8)


def _forge(share: float) -> int:
    """Forge files in this process, and print one line for every trial."""
    import random

    rng, folder = random.Random(6), scratch()
    model = ms.build_model("lenet_300_100:0.05", (1, 8, 8), 10)
    space = ms.filter_space(model, torch.rand(1, 1, 8, 8))
    weights = ms.weight_space(model)
    mask, kept = weights.random(0.3), space.random(0.5, scope="layerwise", on_empty="keep_one")
    path, small = folder / "mask.safetensors", folder / "small"
    mask.save(path)
    ms.save_pruned(small, ms.prune(model, space, kept), space, kept)
    tensors, about = load_tensors(path)
    bits = tensors["bits"]
    masks: dict[str, tuple[dict[str, Any], Any]] = {
        "no bytes": ({"bits": bits[:0]}, about),
        "3 bytes": ({"bits": bits[:3]}, about),
        "twice": ({"bits": torch.cat([bits, bits])}, about),
        "two dimensions": ({"bits": bits[None]}, about),
        "no dimension": ({"bits": bits[0]}, about),
        "padding": ({"bits": torch.full_like(bits, 255)}, about),
        "other bits": ({"bits": bits.flip(0)}, {**about, "kept": about["kept"] + 1}),
        "other layers": ({"bits": bits}, {**about, "layers": about["layers"][::-1]}),
        "other name": ({"bit": bits}, about),
        "second tensor": ({"bits": bits, "more": bits}, about),
        "nothing": ({}, about),
        **{str(kind): ({"bits": bits.to(kind)}, about) for kind in _TYPES},
        **{f"without {name}": ({"bits": bits}, {k: v for k, v in about.items() if k != name}) for name in about},
        **{
            f"{name} is {value!r}": ({"bits": bits}, {**about, name: value})
            for name in about for value in (None, 7, [])
        },
        **{f"about {value!r}": ({"bits": bits}, value) for value in (None, [], "x", 3)},
    }  # fmt: skip
    may_load = ("without kept", "without layers", "without space")  # older files; what says nothing of the bits
    for name, (content, told) in masks.items():
        save_tensors(path, content, told)
        _tell(
            f"mask, {name}",
            lambda: ms.Mask.load(path, weights),
            lambda found, name=name: found == mask or name in may_load,
        )
    mask.save(path)
    _flip(path, rng, round(100 * share), lambda: ms.Mask.load(path, weights), lambda found: found == mask)
    network = read_json(small / "network.json")
    hostile: list[Any] = [None, -1, 10**18, "x", [], {}, [["fc", "training", None, 0]], [[1, 2]], {"a": 1}]
    for name in network:
        for value in [*hostile, "without"]:
            content = {
                key: value if key == name else old for key, old in network.items() if (key, value) != (name, "without")
            }
            write_json(small / "network.json", content)
            _tell(
                f"network.json, {name} is {value!r}", lambda: ms.load_pruned(small), lambda found: _equal(found, small)
            )
    write_json(small / "network.json", network)
    for file in sorted(small.iterdir()):
        _flip(file, rng, round(40 * share), lambda: ms.load_pruned(small), lambda found: True)
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _equal(network: nn.Module, folder: Any) -> bool:
    """Return whether a network has exactly the weights of a folder and computes finite outputs."""
    tensors, _ = load_tensors(folder / "weights.safetensors")
    state = network.state_dict()
    same = all(torch.equal(state[name], tensor) for name, tensor in tensors.items() if name in state)
    return same and bool(network(torch.rand(2, 1, 8, 8)).isfinite().all())


def _flip(path: Any, rng: Any, number: int, load: Callable[[], Any], right: Callable[[Any], bool]) -> None:
    content = path.read_bytes()
    before = load()
    for place in (rng.randrange(len(content)) for _ in range(number)):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :])
        _tell(f"{path.name}, bit in byte {place}", load, lambda found: right(found) and _alike(found, before))
    path.write_bytes(content)


def _alike(one: Any, other: Any) -> bool:
    if not isinstance(one, nn.Module):
        return bool(one == other)
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _tell(name: str, load: Callable[[], Any], right: Callable[[Any], bool]) -> None:
    try:
        outcome, text = ("right" if right(load()) else "silent"), ""
    except InputError as error:
        outcome, text = "refused", str(error)
    except Exception as error:
        outcome, text = "traceback", f"{type(error).__name__}: {error}"
    print("trial", name, outcome, text.replace("\n", " ").replace("\t", " "), sep="\t", flush=True)


def fuzz_parts() -> Iterator[tuple[str, Part]]:
    """Yield (name, part) of the parts with nonsense and forgeries."""
    yield "command lines", command_lines
    yield "API calls", api_calls
    yield "forged masks and folders of networks", forged_files
