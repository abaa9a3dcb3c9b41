"""A sweep: checks its settings, then trains dense networks and runs all cells of its grid."""

import warnings
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from pathlib import Path

from masksearch.data import Data
from masksearch.experiment.cell import Cell
from masksearch.experiment.cost_feasibility import check_latency_bounds
from masksearch.experiment.dense_group import DenseGroup, data_digest, data_key, load_part
from masksearch.experiment.executors import plan_of, run_groups
from masksearch.experiment.process_setup import describe_machine, prepare
from masksearch.experiment.settings.all_settings import Settings, SweepSettings
from masksearch.experiment.steps.dense import dense_folder
from masksearch.experiment.store.mirror import holding
from masksearch.experiment.store.run_folder import CHECKPOINTS, is_done, locked, remove_checkpoints
from masksearch.experiment.store.sweep_plan import SweepPlan, read_plan
from masksearch.experiment.sweep_callback import SweepCallback
from masksearch.experiment.sweep_checks import check_parts, check_without_data, checked_space
from masksearch.experiment.sweep_grid import grid, with_distinct_labels
from masksearch.experiment.sweep_result import CellsFailedError, SweepResult, read_sweep
from masksearch.schedules import SCHEDULES
from masksearch.scoring import OBJECTIVES
from masksearch.spaces import NetworkSpace
from masksearch.tasks import Task
from masksearch.training.data_parallel import check_sync_batchnorm
from masksearch.utils.files import remove_litter


def run_sweep(
    settings: Settings | Sequence[Settings], callback: SweepCallback | None = None, known: Container[str] = ()
) -> SweepResult:
    """Execute all runs of a sweep that are not finished yet; return the results of all runs.

    Parameters
    ----------
    settings : Settings or sequence of Settings
        Several are the parts of one sweep, whose cells are compared with one another: same name, data and network.
    known : container of str
        Names of cells that are finished elsewhere: they are left out.

    Raises
    ------
    InputError
        Before any work where possible, for settings that don't fit data, network or machine, or if another process
        works in the same folder.
    CellsFailedError
        An InputError at the end, if errors have ended cells; it has the result of the others.
    """
    callback = callback or SweepCallback()
    parts = [settings] if isinstance(settings, Settings) else list(settings)
    check_parts(parts)
    device = prepare(parts[0].run)
    for each in parts:
        check_sync_batchnorm(each.train, device)
    check_without_data(parts)
    loaded = _loaded_parts(parts)
    cells = [cell for part in loaded for cell in part.cells]
    path = parts[0].run.folder / parts[0].run.name
    with locked(path), holding(parts[0].run) as mirror:
        remove_litter(path)
        networks = {dense_folder(cell): cell.seed for part in loaded for cell in [*part.dense, *part.cells]}
        runs = [*(path / cell.folder for cell in cells if cell.folder not in known), *networks]
        mirror.synchronise(runs)
        done = {cell.folder for cell in cells if is_done(path / cell.folder)}
        to_do = [cell for cell in cells if cell.folder not in done and cell.folder not in known]
        unfinished = {cell.folder for cell in to_do}
        for own in loaded:
            check_latency_bounds([c for c in own.cells if c.folder in unfinished], own.space, own.data, device)
        waiting = list(_groups(loaded, to_do, known))
        plan = plan_of(parts, [part.data for part in loaded], len(to_do), device, idle=not waiting)
        used, given = [part.settings.as_dict() for part in loaded], [part.as_dict() for part in parts]
        remote = parts[0].run.is_remote  # other machines have other absolute paths
        _warn_of_threads(path, plan.threads)
        SweepPlan(
            settings=used,
            given=given if given != used else None,
            machine=describe_machine(device) | {"threads": str(plan.threads), "workers": str(plan.workers)},
            cells=[cell.folder for cell in cells],
            dense={
                f"../dense/{folder.name}" if remote else str(folder.resolve()): seed
                for folder, seed in networks.items()
            },
        ).save(path)
        mirror.publish_plan()
        for name in done:  # an interruption may have left checkpoints of finished cells
            remove_checkpoints(path / name, *CHECKPOINTS)
        callback.sweep_begins(cells, to_do)
        if waiting:
            groups = (replace(group, mirror=mirror) for group in waiting)
            run_groups(groups, path, parts[0].run, replace(plan, mirror=mirror), device, callback)
        mirror.synchronise(runs)
    result = read_sweep(path)
    if result.failures:
        raise CellsFailedError(result)
    return result


def _warn_of_threads(path: Path, threads: int) -> None:
    """Warn if a sweep continues with another number of threads per cell than at its beginning."""
    before = read_plan(path).machine.get("threads") if (path / "sweep.json").exists() else None
    if before not in (None, str(threads)):
        warnings.warn(
            f"threads: the sweep in {path} began with {before} for each cell and continues with {threads}, so the last "
            f"bits of results may differ; --threads {before} keeps them",
            stacklevel=3,
        )


def _groups(loaded: Sequence["_Part"], to_do: Iterable[Cell], known: Container[str]) -> Iterator[DenseGroup]:
    """Yield each dense network with its cells, except networks whose work is finished."""
    unfinished = {cell.folder for cell in to_do}
    for part in loaded:
        sharing: dict[Path, list[Cell]] = {dense_folder(cell): [] for cell in part.dense}
        for cell in part.cells:
            sharing.setdefault(dense_folder(cell), []).append(cell)
        alone = {dense_folder(cell): cell for cell in part.dense}
        for folder, cells in sharing.items():
            waiting = [cell for cell in cells if cell.folder in unfinished]
            if cells and not waiting and (is_done(folder) or any(cell.folder in known for cell in cells)):
                continue
            yield DenseGroup(cells or [alone[folder]], waiting, part.data, part.space)


@dataclass(frozen=True)
class _Part:
    """A part of a sweep, and what its cells have in common."""

    settings: Settings
    cells: list[Cell]
    dense: list[Cell]  # cells without a method, one per dense network
    data: Data
    space: NetworkSpace


def _loaded_parts(parts: Sequence[Settings]) -> list[_Part]:
    """Return the parts with their cells, data and spaces; raise an error for settings that do not fit these."""
    data: dict[tuple[object, ...], Data] = {}
    loaded = []
    for part in parts:
        key = data_key(part)
        if key not in data:
            data[key] = load_part(part)
        used = _for_task(part, data[key].task)
        cells = grid(used)
        dense = [
            Cell(used, "", 0.0, "0", seed, name)
            for seed, name in product(used.sweep.seed_range, _dense_schedules(used))
        ]
        digest = partial(replace, data_digest=data_digest(used, data[key]))
        cells, dense = (list(map(digest, some)) for some in (cells, dense))
        space = checked_space(used, data[key], cells, dense)
        loaded.append(_Part(used, cells, dense, data[key], space))
    labelled = iter(with_distinct_labels(cell for part in loaded for cell in part.cells))
    return [replace(part, cells=list(islice(labelled, len(part.cells)))) for part in loaded]


def _for_task(part: Settings, task: Task) -> Settings:
    """Return the settings, with the loss as objective where the usual objective is not defined for the task."""
    usual = SweepSettings().objective
    if part.sweep.objective != usual or OBJECTIVES[usual].fits(task):
        return part
    return part.with_changes({"sweep": {"objective": "loss"}})


def _dense_schedules(part: Settings) -> list[str]:
    """Return the schedules whose dense networks a part trains: ``one_shot``, or those with their own L1 penalty."""
    names = part.schedules.schedule if part.schedules.dense_alone else ()
    return list(dict.fromkeys(name if SCHEDULES[name].bn_l1 else "one_shot" for name in names)) or ["one_shot"]
