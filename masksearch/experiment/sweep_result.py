"""Results of a sweep, as its folder holds them: reading them out, and the error of a sweep with failed cells."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from masksearch.experiment.cell_results import CellResult, DenseResult
from masksearch.experiment.result_parts import Metric
from masksearch.experiment.settings.all_settings import Settings, SweepSettings
from masksearch.experiment.store.run_folder import failures_of, is_done
from masksearch.experiment.store.sweep_plan import read_plan
from masksearch.utils.errors import InputError

_SHOWN = 5  # sentences in the message of CellsFailedError


@dataclass(frozen=True)
class SweepResult:
    """Results of a sweep: those of its finished runs (cells) and dense networks, and the sweep's settings."""

    path: Path  # runs/<name>
    settings: list[Settings]  # of its parts, in order
    machine: dict[str, str]
    cells: list[CellResult]  # those that are finished, in order of the grid
    folders: list[Path]  # of the cells
    dense: list[DenseResult]  # those that are finished
    failures: dict[str, str] = field(default_factory=dict)  # label of a failed cell -> sentence

    @property
    def metric(self) -> Metric:
        """Main metric of the sweep's task, such as accuracy; as long as no run is finished, it is the accuracy."""
        return next((network.metric for network in (*(cell.dense for cell in self.cells), *self.dense)), Metric())

    @property
    def sweep(self) -> SweepSettings:
        """What the sweep compares: settings such as data set and methods, from the sweep's first part."""
        return self.settings[0].sweep


class CellsFailedError(InputError):
    """Error that is raised at the end of a sweep if some of its runs failed; all other runs are finished.

    Attributes
    ----------
    result : SweepResult
        The results of the other cells.
    """

    def __init__(self, result: SweepResult) -> None:
        self.result = result
        labels: dict[str, list[str]] = {}  # of the cells, by sentence
        for label, sentence in result.failures.items():
            labels.setdefault(sentence, []).append(label)
        shown = [f"{_some(cells)}: {sentence}" for sentence, cells in list(labels.items())[:_SHOWN]]
        shown += [f"and {len(labels) - _SHOWN} other errors"] if len(labels) > _SHOWN else []
        n, done = len(result.failures), len(result.cells)
        about = f"{n} cell{'s' * (n != 1)} failed, {done} finished; the same command tries again what failed"
        super().__init__(": ".join([about, *shown]) if len(shown) == 1 else "\n  ".join([f"{about}:", *shown]))


def _some(labels: list[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more"


def read_sweep(path: str | Path) -> SweepResult:
    """Read from a sweep's folder the results of its finished runs (cells) and dense networks.

    Raises
    ------
    InputError
        If there is no sweep, or another version has written it.
    """
    path = Path(path)
    if not (path / "sweep.json").exists():
        raise InputError(f"{path} holds no sweep (no sweep.json)")
    plan = read_plan(path)
    done = [path / name for name in plan.cells if is_done(path / name)]
    networks = [folder for folder in map(Path, plan.dense) if is_done(folder)]
    return SweepResult(
        path,
        [Settings.from_dict(part, f"{path / 'sweep.json'}") for part in plan.settings],
        plan.machine,
        list(_sharing(map(CellResult.load, done))),
        done,
        list(map(DenseResult.load, networks)),
        failures_of(path / name for name in plan.cells),
    )


def _sharing(cells: Iterable[CellResult]) -> Iterator[CellResult]:
    """Yield results whose equal parts are one object: the settings of a method, and the dense network of a seed."""
    settings: dict[str, Mapping[str, Any]] = {}
    networks: dict[int, DenseResult] = {}
    for cell in cells:
        own, dense = settings.setdefault(cell.method, cell.settings), networks.setdefault(cell.seed, cell.dense)
        yield replace(
            cell,
            settings=own if own == cell.settings else cell.settings,
            dense=dense if dense == cell.dense else cell.dense,
        )
