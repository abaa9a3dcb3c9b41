"""``masksearch --list``: every row of every table."""

from functools import partial

from rich.console import Console

from masksearch.criteria import CRITERIA
from masksearch.data import DATASETS
from masksearch.experiment import recipe_names, recipe_text
from masksearch.models import MODELS
from masksearch.schedules import SCHEDULES
from masksearch.scoring import OBJECTIVES
from masksearch.searchers import SEARCHERS
from masksearch.supermasks import SUPERMASKS

__all__ = ["print_tables"]


def print_tables() -> None:
    """Print the names and descriptions of all methods, schedules, objectives, networks, data sets and recipes."""
    console = Console(highlight=False)
    catalogue = {
        "searchers (--methods)": {name: _first_line(row) for name, row in SEARCHERS.items()},
        "criteria (--methods, --saliencies, --warm-start)": {name: row.source for name, row in CRITERIA.items()},
        "supermasks, learned by gradient (--methods)": {
            name: f"{row.about} ({row.source})" for name, row in SUPERMASKS.items()
        },
        "schedules (--schedule)": {name: row.about for name, row in SCHEDULES.items()},
        "objectives (--objective, --rescore-by)": {name: row.about for name, row in OBJECTIVES.items()},
        "networks (--model)": {
            **{name: row.about for name, row in MODELS.items()},
            "torchvision:NAME": "torchvision's classifiers",
        },
        "data sets (--dataset)": {name: row.about for name, row in DATASETS.items()},
        "recipes (--recipe)": {name: recipe_text(name) for name in recipe_names()},
    }
    for kind, rows in catalogue.items():
        console.print(f"[bold]{kind}[/]")
        for name, text in rows.items():
            console.print(f"  {name:<22} {text}", soft_wrap=True, markup=False)


def _first_line(row: object) -> str:
    """First line of a row's docstring; for a partial, the first line of its function's docstring and the arguments."""
    if isinstance(row, partial):
        given = [*map(repr, row.args), *(f"{name}={value!r}" for name, value in row.keywords.items())]
        return f"{_first_line(row.func)} ({', '.join(given)})"
    return (row.__doc__ or "a row of your own").strip().splitlines()[0]
