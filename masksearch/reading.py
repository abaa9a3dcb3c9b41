"""The commands that read finished runs: ``masksearch show``, ``compare`` and ``analyse``."""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from masksearch.analysis import SIMILARITIES, group_cells
from masksearch.errors import InputError
from masksearch.experiment import SweepResult, read_sweep
from masksearch.files import write_bytes
from masksearch.report import analyses
from masksearch.report.comparing import comparison
from masksearch.report.contents import cell_contents, sweep_contents
from masksearch.report.drawing import Drawing
from masksearch.report.grid import Grid
from masksearch.table import choose

__all__ = ["ANALYSES", "analyse", "compare", "show_contents"]

ANALYSES = ("similarity", "orthogonality", "densities", "macs", "gap")


def show_contents(folder: Path, console: Console) -> None:
    """Print all that a folder of a sweep, a cell or a dense network holds."""
    for grid in sweep_contents(folder) if (folder / "sweep.json").exists() else cell_contents(folder):
        console.print(grid.terminal())


def compare(args: Sequence[str], console: Console) -> None:
    """Print how several sweeps differ, in their settings and in their results."""
    asked = _Parser("compare", "RUN RUN ... [--out FILE.md]")
    asked.add_argument("runs", nargs="*")
    asked.add_argument("--out")
    given = asked.parse_args(args)
    grids = comparison([read_sweep(Path(run)) for run in given.runs])
    _print(grids, console)
    if given.out:
        write_bytes(Path(given.out), "\n".join(grid.markdown() for grid in grids).encode())
        console.print(f"written  {given.out}", highlight=False, soft_wrap=True)


def analyse(args: Sequence[str], console: Console) -> None:
    """Print what the masks of sweeps are like, and write it down as Markdown and figures."""
    asked = _Parser("analyse", "RUN ... [--what NAME ...] [--measure NAME ...] [--sparsity S ...] [--out FOLDER]")
    asked.add_argument("runs", nargs="*")
    asked.add_argument("--what", nargs="+", default=list(ANALYSES))
    asked.add_argument("--measure", nargs="+", default=list(SIMILARITIES))
    asked.add_argument("--sparsity", nargs="+", default=[])
    asked.add_argument("--out")
    given = asked.parse_args(args)
    if not given.runs:
        raise InputError("analyse: takes one or more runs, as runs/sweep")
    for name in given.what:
        choose("analysis", name, list(ANALYSES))
    for name in given.measure:
        choose("measure", name, list(SIMILARITIES))
    results = [_only(read_sweep(Path(run)), given.sparsity) for run in given.runs]
    home = Path(given.out) if given.out else results[0].path / "analysis"
    texts = []
    for result in results:
        grids, drawings = _analyses(result, given.what, given.measure)
        _print(grids, console)
        texts += [f"# {result.path.name}\n", *(grid.markdown() for grid in grids)]
        for drawing in drawings:
            name = f"{result.path.name}_{drawing.name}.png"
            write_bytes(home / name, drawing.png())
            texts.append(f"![{drawing.name.replace('_', ' ')}]({name.replace(' ', '%20')})\n")
    grids = analyses.gaps(results) if "gap" in given.what else []
    _print(grids, console)
    texts += [grid.markdown() for grid in grids]
    write_bytes(home / "analysis.md", "\n".join(texts).encode())
    console.print(f"written  {home / 'analysis.md'}", highlight=False, soft_wrap=True)


def _analyses(result: SweepResult, what: Sequence[str], measures: Sequence[str]) -> tuple[list[Grid], list[Drawing]]:
    groups = group_cells(result.cells)
    grids: list[Grid] = []
    drawings: list[Drawing] = []
    if "similarity" in what:
        grids, drawings = analyses.similarity(result, groups, measures)
    if "orthogonality" in what:
        grids = [*grids, *analyses.orthogonality(result, groups)]
    if "densities" in what:
        grids = [*grids, *analyses.densities(groups)]
    if "macs" in what:
        grids = [*grids, *analyses.macs(groups)]
    return grids, drawings


def _only(result: SweepResult, sparsities: Sequence[str]) -> SweepResult:
    """The result with the cells of some sparsities alone; of all, where none is given."""
    if not result.cells:
        raise InputError(f"{result.path}: no cell is finished yet")
    known = sorted({cell["sparsity"] for cell in result.cells})
    wanted = {_number(text, known) for text in sparsities} or set(known)
    places = [place for place, cell in enumerate(result.cells) if cell["sparsity"] in wanted]
    return replace(
        result, cells=[result.cells[place] for place in places], folders=[result.folders[place] for place in places]
    )


def _number(text: str, known: Sequence[float]) -> float:
    for value in known:
        if text in (f"{value:g}", str(value)):
            return value
    raise InputError(f"sparsity: {text}; the run has {', '.join(f'{value:g}' for value in known)}")


def _print(grids: Sequence[Grid], console: Console) -> None:
    for grid in grids:
        console.print(grid.terminal())


class _Parser(ArgumentParser):
    """Tells a mistake in one line, as every other is told."""

    def __init__(self, command: str, usage: str) -> None:
        super().__init__(prog=f"masksearch {command}", usage=f"masksearch {command} {usage}", allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{self.prog.split()[-1]}: {message}; usage: {self.usage}")
