"""Cases of all suites at three scales: data set, network, granularity, method, sparsity, seed and budget.

A sweep of a suite holds the cases that are compared with one another. Its parts are sparsity by sparsity, so that a
suite that was stopped has all methods at some sparsities rather than some methods at all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from masksearch.criteria import CRITERIA
from masksearch.experiment import Cell, Settings, grid, load_recipe, methods, recipe_names
from masksearch.experiment.settings.sweep_settings import split_method
from masksearch.utils.errors import InputError
from masksearch.utils.registry import Table

__all__ = ["SUITES", "Suite", "Sweep", "chosen"]


@dataclass(frozen=True)
class Sweep:
    """Cases that are compared with one another, as the parts of one sweep."""

    parts: tuple[Settings, ...]

    @property
    def name(self) -> str:
        """Name of the sweep's folder under ``runs`` and of its file of rows."""
        return self.parts[0].run.name

    @property
    def cells(self) -> list[Cell]:
        """All cases, in order."""
        return list({cell.folder: cell for part in self.parts for cell in grid(part)}.values())


@dataclass(frozen=True)
class Suite:
    """A comparison: its cases, and the columns that its tables show."""

    about: str
    sweeps: Callable[[str], list[Sweep]]  # by scale
    value: str = "trained.test_accuracy"  # column that is compared
    chosen_by: str = "trained.val_accuracy"  # column that chooses the best baseline
    scale: float = 100.0  # of the value, in tables
    digits: int = 2
    blocks: Literal["sparsities", "seeds"] = "sparsities"  # what the tests take as independent measurements
    published: bool = False  # recipes: rows and tables of whole sweeps, taken in by benchmarks.collect


_OF_BLOCKS = ("owl", "sparsegpt")  # which the recipe llm_one_shot compares


def _criteria_of(granularity: str, bn: bool) -> list[str]:
    """Return all criteria of a granularity without those for blocks; ``bn_scale`` only for networks with BatchNorm."""
    rows = [name for name, row in CRITERIA.items() if granularity in row.granularities and name not in _OF_BLOCKS]
    return rows if bn else [name for name in rows if name != "bn_scale"]


_SMOKE: dict[str, Any] = {
    "epochs": 1,
    "lr": 0.05,
    "train_examples": 200,
    "val_examples": 100,
    "search_examples": 50,
    "seeds": 2,
    "latency_seconds": 0.002,
}
_WEIGHT_SPARSITIES, _FILTER_SPARSITIES = [0.5, 0.8, 0.9, 0.95, 0.98], [0.3, 0.5, 0.6, 0.7, 0.8]
_COSINE = {"lr_schedule": "cosine", "lr": 0.05, "seeds": 3}

_CRITERIA: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "digits_lenet": (
        {"dataset": "digits", "model": "lenet_300_100", "methods": _criteria_of("weight", bn=False)},
        {
            "smoke": _SMOKE | {"model": "lenet_300_100:0.1", "sparsity": [0.5, 0.9]},
            "cpu": _COSINE | {"epochs": 20, "sparsity": _WEIGHT_SPARSITIES},
            "paper": _COSINE | {"epochs": 100, "sparsity": _WEIGHT_SPARSITIES, "seeds": 10},
        },
    ),
    "digits_resnet": (
        {
            "dataset": "digits",
            "model": "resnet20:0.5",
            "granularity": "filter",
            "scope": "global",
            "on_empty": "keep_one",
            "methods": _criteria_of("filter", bn=True),
        },
        {
            "smoke": _SMOKE | {"model": "resnet20:0.25", "sparsity": [0.5, 0.8], "seeds": 1},
            "cpu": _COSINE | {"model": "resnet20:0.25", "epochs": 5, "sparsity": _FILTER_SPARSITIES},
            "paper": _COSINE | {"epochs": 40, "sparsity": _FILTER_SPARSITIES, "seeds": 10},
        },
    ),
    "mnist_lenet": (
        {"dataset": "mnist", "model": "lenet_300_100", "methods": _criteria_of("weight", bn=False)},
        {
            "cpu": _COSINE
            | {"epochs": 8, "sparsity": _WEIGHT_SPARSITIES, "train_examples": 10_000, "val_examples": 3000},
            "paper": _COSINE | {"epochs": 50, "sparsity": _WEIGHT_SPARSITIES, "seeds": 10},
        },
    ),
    "cifar10_conv2": (
        {"dataset": "cifar10", "model": "conv2", "methods": _criteria_of("weight", bn=False)},
        {
            "cpu": _COSINE
            | {"model": "conv2:0.25", "epochs": 6, "sparsity": _WEIGHT_SPARSITIES}
            | {"lr": 0.02, "train_examples": 5000, "val_examples": 2000},
            "paper": _COSINE | {"model": "resnet20", "epochs": 160, "sparsity": _WEIGHT_SPARSITIES, "seeds": 10},
        },
    ),
}


def _by_sparsity(name: str, flat: dict[str, Any]) -> list[Settings]:
    """Return one part of a sweep per sparsity."""
    whole = Settings().updated(flat | {"name": name}, name)
    return [replace(whole, sweep=replace(whole.sweep, sparsity=(one,))) for one in whole.sweep.sparsity]


def _criteria(scale: str) -> list[Sweep]:
    sweeps = []
    for pair, (base, scales) in _CRITERIA.items():
        if scale in scales:
            parts = []
            for part in _by_sparsity(f"criteria_{scale}_{pair}", base | scales[scale]):
                parts.append(part)
                if part.sweep.granularity == "weight":  # random masks with ERK's densities: a control that costs little
                    sweep, scoring = replace(part.sweep, methods=("random",)), replace(part.scoring, scope="erk")
                    parts.append(replace(part, sweep=sweep, scoring=scoring))
            sweeps.append(Sweep(tuple(parts)))
    return sweeps


_SEARCHERS = ["random_search", "annealing", "eda", "evolution", "optuna_random", "optuna_tpe", "optuna_cmaes"]
_SEARCH: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "digits": (
        {"dataset": "digits", "model": "lenet_300_100", "find_at": ["end"]},
        {
            "smoke": _SMOKE | {"model": "lenet_300_100:0.1", "sparsity": [0.9], "methods": _SEARCHERS[:3]},
            "cpu": {"epochs": 10, "sparsity": [0.9, 0.98], "seeds": 10},
            "paper": {"epochs": 50, "sparsity": [0.9, 0.95, 0.98], "seeds": 20},
        },
    ),
    "mnist": (
        {"dataset": "mnist", "model": "thesis_mlp", "find_at": ["0"], "epochs": 1, "search_examples": 2000},
        {
            "cpu": {"train_examples": 5000, "val_examples": 5000, "sparsity": [0.9], "seeds": 10},
            "paper": {"sparsity": [0.7, 0.8, 0.9], "seeds": 20},
        },
    ),
}
_BUDGETS = {"smoke": (40, 0.1), "cpu": (1000, 5.0), "paper": (10_000, 60.0)}  # scorings, seconds
_NO_LIMIT = 10**9  # scorings, where seconds end the search


def _search(scale: str) -> list[Sweep]:
    """Return every searcher with a budget of scorings and with one of seconds, without retraining."""
    scorings, seconds = _BUDGETS[scale]
    sweeps = []
    for pair, (base, scales) in _SEARCH.items():
        if scale in scales:
            flat = {"methods": _SEARCHERS, "retrain_epochs": 0} | base | scales[scale]
            for name, budget in (
                ("scorings", {"budget": scorings}),
                ("seconds", {"budget": _NO_LIMIT, "seconds": seconds}),
            ):
                sweeps.append(Sweep(tuple(_by_sparsity(f"search_{scale}_{pair}_{name}", flat | budget))))
    return sweeps


_SCHEDULES: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "digits_lenet": (
        {
            "dataset": "digits",
            "model": "lenet_300_100",
            "methods": ["magnitude"],
            "schedule": [
                "one_shot",
                "iterative",
                "lottery_ticket",
                "prune_finetune",
                "multi_shot",
                "gradual",
                "set",
                "rigl",
            ],
        },
        {
            "smoke": _SMOKE | {"model": "lenet_300_100:0.1", "sparsity": [0.9]},
            "cpu": {"epochs": 10, "sparsity": _WEIGHT_SPARSITIES, "seeds": 5},
            "paper": {"epochs": 50, "sparsity": _WEIGHT_SPARSITIES, "seeds": 10},
        },
    ),
    "digits_resnet": (
        {
            "dataset": "digits",
            "model": "resnet20:0.25",
            "granularity": "filter",
            "scope": "global",
            "on_empty": "keep_one",
            "methods": ["bn_scale"],
            "schedule": ["one_shot", "iterative", "prune_finetune", "gradual", "early_bird", "network_slimming"],
        },
        {
            "smoke": _SMOKE | {"sparsity": [0.5], "seeds": 1},
            "cpu": {"epochs": 8, "sparsity": [0.3, 0.5, 0.7], "seeds": 3},
            "paper": {"model": "resnet20", "epochs": 40, "sparsity": _FILTER_SPARSITIES, "seeds": 10},
        },
    ),
}


def _schedules(scale: str) -> list[Sweep]:
    return [
        Sweep(tuple(_by_sparsity(f"schedules_{scale}_{pair}", base | scales[scale])))
        for pair, (base, scales) in _SCHEDULES.items()
        if scale in scales
    ]


def _published(scale: str) -> list[Sweep]:
    """Return the sweeps of all recipes."""
    sweeps: dict[str, list[Settings]] = {}
    for name in recipe_names():
        for part in load_recipe(name, scale):
            sweeps.setdefault(part.run.name, []).append(part)
    return [Sweep(tuple(parts)) for parts in sweeps.values()]


SUITES: Table[Suite] = Table(
    "suite",
    {
        "criteria": Suite("all criteria, five sparsities, four pairs of data set and network", _criteria),
        "search": Suite(
            "searchers at equal scorings and at equal seconds",
            _search,
            value="score.search_score",
            chosen_by="score.rest_score",
            scale=1.0,
            digits=4,
            blocks="seeds",
        ),
        "schedules": Suite("all schedules, with one criterion", _schedules),
        "published": Suite("all recipes", _published, published=True),
    },
)


def chosen(sweeps: Sequence[Sweep], only: Sequence[str], seeds: int | None, run: dict[str, Any]) -> list[Sweep]:
    """Return the sweeps that flags select, with the settings of the machine.

    Parameters
    ----------
    only : sequence of str
        Methods, and parts of names of sweeps; everything if empty.
    seeds : int, optional
        In place of the suite's own.
    run : dict
        Fields of :class:`RunSettings`, where they are not the default.

    Raises
    ------
    InputError
        If nothing is left.
    """
    wanted = [word for word in only if word in methods()]
    names = [word for word in only if word not in wanted]
    found = [sweep for sweep in sweeps if not names or any(word in sweep.name for word in names)]
    kept = []
    for sweep in found:
        parts = [_changed(part, wanted, seeds, run) for part in sweep.parts if not wanted or _some(part, wanted)]
        if parts:
            kept.append(Sweep(tuple(parts)))
    if not kept:
        raise InputError(f"only: {' '.join(only)}; there are {', '.join(sweep.name for sweep in sweeps)}, and methods")
    return kept


def _some(part: Settings, wanted: Sequence[str]) -> list[str]:
    return [method for method in part.sweep.methods if split_method(method)[0] in wanted]


def _changed(part: Settings, wanted: Sequence[str], seeds: int | None, run: dict[str, Any]) -> Settings:
    changes: dict[str, Any] = {} if seeds is None else {"seeds": seeds}
    if wanted:
        changes["methods"] = tuple(_some(part, wanted))
    return replace(part, sweep=replace(part.sweep, **changes), run=replace(part.run, **run))
