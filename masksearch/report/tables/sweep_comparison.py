"""Tables that compare several sweeps: settings that differ, and results for equal methods, sparsities and seeds."""

from collections.abc import Sequence

from masksearch.analysis import INTERVALS, PairedRow, different_settings, paired_rows
from masksearch.analysis.seed_groups import name_of
from masksearch.experiment import SweepResult
from masksearch.experiment.result_parts import Metric
from masksearch.report.tables.table_formats import Grid
from masksearch.utils.errors import InputError
from masksearch.utils.number_text import percent


def comparison(results: Sequence[SweepResult]) -> list[Grid]:
    """Return tables of the settings and the test metrics in which two or more sweeps differ.

    Raises
    ------
    InputError
        For fewer than two sweeps, and for sweeps with different metrics.
    """
    if len(results) < 2:
        raise InputError(f"compare: {len(results)} given; give two or more runs, such as runs/one runs/other")
    names = run_names(results)
    metric, *others = dict.fromkeys(result.metric for result in results)
    if others:
        raise InputError(f"compare: metrics are {metric.name} and {others[0].name}; give runs with the same metric")
    settings = [(name, *values) for name, values in different_settings(results).items()]
    heads = ("setting", *(names if settings else ()))
    differing = Grid("Settings that differ", heads, settings or [("none",)], len(heads))
    head = ("method", "variant", "sparsity", "found", *(f"{name}{metric.unit}" for name in names))
    head += tuple(f"{name} - {names[0]}" for name in names[1:])
    points = " in points" * metric.is_accuracy
    about = (
        f"Test {metric.name} after the last epoch: {INTERVALS}. Differences{points} from the "
        "first run are paired by seed; – where a run has no such cell. An interval over few seeds is no "
        "significance test."
    )
    return [differing, Grid("Results", head, [_row(row, metric) for row in paired_rows(results)], 2, about)]


def _row(row: PairedRow, metric: Metric) -> tuple[str, ...]:
    kind = row.kind
    words = (
        kind.schedule.replace("_", " ") * (kind.schedule != "one_shot"),
        f"{kind.n_rounds} rounds" * (kind.n_rounds > 1),
        f"from {kind.rewind_to}" * (kind.rewind_to != "0"),
        "" if kind.retrain_lr is None else f"lr {kind.retrain_lr:g}",
        kind.label,
        kind.control * (kind.control != "none"),
    )
    return (
        name_of(kind.method),
        ", ".join(filter(None, words)),
        percent(kind.sparsity),
        kind.find_at,
        *(estimate.text(metric.scale, metric.digits) for estimate in row.trained),
        *(estimate.text(metric.scale, metric.digits, "+") for estimate in row.difference),
    )


def run_names(results: Sequence[SweepResult]) -> list[str]:
    """Return a short name for each sweep: the end of its folder's path, as long as needed to be unique."""
    paths = [result.path.resolve().parts for result in results]
    length = 1
    while len({path[-length:] for path in paths}) < len(set(paths)):
        length += 1
    return ["/".join(path[-length:]) for path in paths]
