"""Budgets of a search in a folder: the parts that a call runs, and the finished searches with smaller budgets."""

import shutil
from dataclasses import replace
from pathlib import Path

from masksearch.core.problem_and_trials import Budget, Problem
from masksearch.utils.errors import InputError

_FILES = ("history.jsonl", "moves.i32", "search.safetensors")


def parts_to_run(problem: Problem, saved: tuple[Budget, ...], folder: Path) -> list[Problem]:
    """Return the searches to run: the folder's search to the end of its smaller budget, if any, then ``problem``.

    The former may be unfinished.

    Raises
    ------
    InputError
        If the budget is not larger than the last saved one.
    """
    if not saved or saved == (problem.budget,):
        return [problem]
    if problem.budget == saved[-1]:
        return [replace(problem, earlier_budgets=saved[:-1])]
    if not problem.budget.covers(saved[-1]):
        raise InputError(
            f"{folder}: holds another search: its budget is {saved[-1]}, and this search has {problem.budget}; "
            "only a larger budget continues the search"
        )
    return [
        replace(problem, budget=saved[-1], earlier_budgets=saved[:-1]),
        replace(problem, earlier_budgets=saved),
    ]


def finished_part(problem: Problem, saved: tuple[Budget, ...], folder: Path) -> tuple[Problem, Path] | None:
    """Return the problem and folder of the finished search with this budget if a larger one continued it; else None.

    None if the budget is not one of the earlier ones, or its files were not kept.
    """
    if problem.budget not in saved[:-1]:
        return None
    place = saved.index(problem.budget)
    kept = _kept_folder(folder, place + 1)
    return (replace(problem, earlier_budgets=saved[:place]), kept) if kept.exists() else None


def keep_budget(folder: Path, number: int) -> None:
    """Copy a search's files at the end of its first, second, ... budget (``number``) before a larger one continues it.

    An earlier copy stays; a copy that was interrupted is made again.
    """
    kept = _kept_folder(folder, number)
    if kept.exists():
        return
    unfinished = kept.with_name(f".{kept.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name in _FILES:
        shutil.copy2(folder / name, unfinished / name)
    unfinished.rename(kept)


def _kept_folder(folder: Path, number: int) -> Path:
    return folder / f"budget_{number}"
