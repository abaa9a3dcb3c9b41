"""The commands that read finished runs: ``masksearch show``, ``compare`` and ``analyse``."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import FlagCreatePairsOff, Positional

from masksearch.analysis import SIMILARITIES, Group, group_cells
from masksearch.cli.run_command import draw_report, print_result
from masksearch.cli.tyro_arguments import Texts, one, read_arguments, takes
from masksearch.experiment import SweepResult, read_sweep
from masksearch.experiment.store.mirror import local_copy
from masksearch.plugin import load_plugins
from masksearch.report import mask_analyses as analyses
from masksearch.report.figures.curves_by_method import controls, training
from masksearch.report.figures.drawing import Drawing, by_sparsity
from masksearch.report.figures.early_bird_heatmaps import early_bird_drawings, early_bird_grid
from masksearch.report.figures.layer_densities import layer_drawings
from masksearch.report.figures.optimism_gaps import gaps
from masksearch.report.figures.style import Looks
from masksearch.report.figures.weight_histograms import weight_drawings
from masksearch.report.tables.folder_contents import cell_contents, sweep_contents
from masksearch.report.tables.sweep_comparison import comparison, run_names
from masksearch.report.tables.table_formats import Grid
from masksearch.utils.errors import InputError
from masksearch.utils.files import write_bytes
from masksearch.utils.registry import choose

_Shown = tuple[list[Grid], list[Drawing]]

_LACKS = {
    "similarity": "no mask is left on disk",
    "orthogonality": "no weight masks, or no initial weights on disk",
    "densities": "all tickets are controls",
    "macs": "all tickets are controls",
    "weights": "no retrained.safetensors on disk",
    "training": "nothing was retrained",
    "controls": "no ticket has a control: --control shuffle reinit repair",
    "early_bird": "no early-bird tickets: --schedule early_bird",
    "gap": "nothing was searched",
}
"""Name of an analysis -> why it has neither tables nor figures."""
ANALYSES = tuple(_LACKS)
"""Names of all analyses of ``masksearch analyse``."""


_PLUGIN = "Python modules with the methods and networks of the sweep. Without this flag, no code of a sweep runs."


@dataclass(frozen=True)
class Show:
    """Print a sweep's results, also while it is running, and the contents of its folder."""

    folder: Annotated[Texts, Positional, takes("FOLDER")] = ()
    """Folder or URL of a sweep (runs/sweep), of one method, sparsity and seed in it, or of a dense network."""
    plugin: Annotated[Texts, takes("MODULE ...", _PLUGIN)] = ()
    report: Annotated[bool, FlagCreatePairsOff] = False
    """Also write the sweep's report.html, results.csv and figures anew. Without this flag, nothing on disk changes."""


@dataclass(frozen=True)
class Compare:
    """Print how sweeps differ: their settings, and their results for equal methods, sparsities and seeds."""

    runs: Annotated[Texts, Positional, takes("RUN RUN ...")] = ()
    """Folders of two or more sweeps, or URLs such as s3://bucket/runs/sweep."""
    plugin: Annotated[Texts, takes("MODULE ...", _PLUGIN)] = ()
    out: Annotated[Texts, takes("FILE")] = ()
    """Markdown file to write the tables to; if not given, the tables are only printed."""


@dataclass(frozen=True)
class Analyse:
    """Print analyses of the masks of sweeps, such as similarity and layer densities; write Markdown and figures."""

    runs: Annotated[Texts, Positional, takes("RUN ...")] = ()
    """Folders of sweeps, or URLs such as s3://bucket/runs/sweep."""
    plugin: Annotated[Texts, takes("MODULE ...", _PLUGIN)] = ()
    what: Annotated[Texts, takes("NAME ...", f"Analyses to make: {', '.join(ANALYSES)}; all if not given.")] = ()
    measure: Annotated[
        Texts, takes("NAME ...", f"Measures of the similarity of masks: {', '.join(SIMILARITIES)}; all if not given.")
    ] = ()
    sparsity: Annotated[Texts, takes("X ...")] = ()
    """Sparsities whose masks are analysed; all if not given."""
    out: Annotated[Texts, takes("FOLDER")] = ()
    """Folder of the Markdown page and the figures; if not given, "analysis" in the folder of the first sweep."""


def show(args: Sequence[str], console: Console) -> None:
    """Print a sweep's results, also while it is running, and the contents of its folder."""
    given = read_arguments(Show, args, "masksearch show")
    load_plugins(given.plugin)
    if len(given.folder) != 1:
        raise InputError(f"show: {' '.join(given.folder) or 'no folder'}; give one folder, such as runs/sweep")
    folder = local_copy(given.folder[0])
    is_sweep = (folder / "sweep.json").exists()
    if is_sweep:
        result = read_sweep(folder)
        if not result.cells and not result.dense:
            raise InputError(f"{folder}: no result is finished yet; wait, or run the sweep again")
        if given.report:
            draw_report(result, (), console)
        print_result(result, console)
    _print(sweep_contents(folder) if is_sweep else cell_contents(folder), console)


def compare(args: Sequence[str], console: Console) -> None:
    """Print how sweeps differ: their settings, and their results for equal methods, sparsities and seeds."""
    given = read_arguments(Compare, args, "masksearch compare")
    load_plugins(given.plugin)
    out = one(given.out, "--out")
    grids = comparison([read_sweep(local_copy(run)) for run in given.runs])
    _print(grids, console)
    if out:
        write_bytes(Path(out), "\n".join(grid.markdown() for grid in grids).encode())
        console.print(f"written  {out}", highlight=False, soft_wrap=True, markup=False)


def analyse(args: Sequence[str], console: Console) -> None:
    """Print analyses of the masks of sweeps, such as similarity and layer densities; write Markdown and figures."""
    given = read_arguments(Analyse, args, "masksearch analyse")
    load_plugins(given.plugin)
    if not given.runs:
        raise InputError("analyse: no run is given; give one or more, such as runs/sweep")
    out = one(given.out, "--out")
    what, measures = given.what or ANALYSES, given.measure or tuple(SIMILARITIES)
    for name in what:
        choose("analysis", name, list(ANALYSES))
    for name in measures:
        choose("measure", name, list(SIMILARITIES))
    results = [_only(read_sweep(local_copy(run, whole=True)), given.sparsity) for run in given.runs]
    home = Path(out) if out else results[0].path / "analysis"
    texts = []
    names = run_names(results)
    for run, result in zip(names, results, strict=True):
        groups = group_cells(result.cells)
        looks = Looks(groups)
        texts.append(f"# {run}\n")
        where = f"{run}: " * (len(results) > 1)
        for name in dict.fromkeys(what):
            if name != "gap":  # of all sweeps together
                shown = _analysis(name, result, groups, looks, measures)
                texts += _shown(name, *shown, home, run.replace("/", "_"), where, console)
    if "gap" in what:
        texts += _shown("gap", *gaps(dict(zip(names, results, strict=True))), home, "all", "", console)
    if _written(home / "analysis.md", "\n".join(texts).encode(), console):
        console.print(f"written  {home / 'analysis.md'}", highlight=False, soft_wrap=True, markup=False)


def _shown(
    name: str, grids: list[Grid], drawings: list[Drawing], home: Path, of: str, where: str, console: Console
) -> list[str]:
    """Print the tables of an analysis and the paths of its figures, or why it has none; return lines of Markdown.

    Titles in the terminal begin with ``where``; those in Markdown follow the name of their run.
    """
    if not grids and not drawings:
        lacks = f"{name}: none, {_LACKS[name]}"
        console.print(f"{where}{lacks}", highlight=False, soft_wrap=True, markup=False)
        return [f"{lacks}\n"]
    _print([replace(grid, title=f"{where}{grid.title}") for grid in grids], console)
    lines = [grid.markdown() for grid in grids]
    files = []
    for drawing in drawings:
        file = f"{of}_{drawing.name}"
        if not all(
            _written(home / f"{file}.{kind}", content(), console)
            for kind, content in (("png", drawing.png), ("svg", drawing.svg_file))
        ):
            continue
        lines.append(f"![{drawing.name.replace('_', ' ')}]({file.replace(' ', '%20')}.png)\n\n{drawing.caption}\n")
        files.append(str(home / f"{file}.png"))
    if files:
        says = f"{where}{name}, as PNG and SVG:  {'  '.join(files)}"
        console.print(says, highlight=False, soft_wrap=True, markup=False)
    return lines


def _written(path: Path, content: bytes, console: Console) -> bool:
    """Write a file and return True; print why it can't be written and return False."""
    try:
        write_bytes(path, content)
    except OSError as error:
        text = f"not written  {path}: {error.strerror or error}; --out names another folder"
        console.print(text, highlight=False, soft_wrap=True, markup=False)
        return False
    return True


def _analysis(name: str, result: SweepResult, groups: list[Group], looks: Looks, measures: Sequence[str]) -> _Shown:
    """Tables and drawings of one analysis of a sweep."""
    match name:
        case "similarity":
            return analyses.similarity(result, groups, measures)
        case "orthogonality":
            return analyses.orthogonality(result, groups), []
        case "densities":
            return analyses.densities(groups), _at_each(groups, lambda own: layer_drawings(own, looks))
        case "macs":
            return analyses.macs(groups), []
        case "weights":
            return [], _at_each(groups, lambda own: weight_drawings(result, own, looks))
        case "training":
            shown = [training(list(own), looks) for _, own in groupby(groups, key=lambda group: group.sparsity)]
            return [grid for grids, _ in shown for grid in grids], [one for _, drawings in shown for one in drawings]
        case "controls":
            return controls(groups, looks), []
    grid = early_bird_grid(groups)
    return [grid] if grid.rows else [], list(early_bird_drawings(groups))


def _at_each(groups: list[Group], draw: Callable[[list[Group]], Iterable[Drawing]]) -> list[Drawing]:
    """Drawings of the groups of each sparsity, with the sparsity in their names."""
    return [
        replace(drawing, name=f"{drawing.name}_{100 * sparsity:.4g}")
        for sparsity, own in by_sparsity(groups)
        for drawing in draw(own)
    ]


def _only(result: SweepResult, sparsities: Sequence[str]) -> SweepResult:
    """The result with only the cells of the given sparsities; with all cells if none is given."""
    if not result.cells:
        raise InputError(f"{result.path}: no result is finished yet; wait, or run the sweep again")
    known = sorted({cell.sparsity for cell in result.cells})
    wanted = {_number(text, known) for text in sparsities} or set(known)
    places = [place for place, cell in enumerate(result.cells) if cell.sparsity in wanted]
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
