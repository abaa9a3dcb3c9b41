"""Is a search worth it? Its test accuracy against the best baseline's, sparsity by sparsity, with a verdict.

    python -m benchmarks.goals results/goal.csv results/goal_layerwise.csv --method annealing --above 0.5
    python -m benchmarks.goals results/goal.csv --method annealing --warm-start magnitude --not-below --write goal_mlp

Rows are those of finished sweeps (``python -m benchmarks.collect``), of one data set and network. A baseline is a
criterion at a scope, which is the rows' or that which the file is named after. Criteria's masks without dead ends
("connected") are no baseline, but what searches of such masks start from: a control. Of all baselines that have the
search's seeds, the best is the one with the highest *validation* accuracy after the last epoch, in the mean over seeds.
The verdict looks at *test* accuracies after the last epoch, in pairs by seed: the mean difference, its 95 % interval
(Student's t), Wilcoxon's signed-rank test, corrected by Holm's method over the sparsities that are looked at.
``docs/results/README.md`` explains the columns.

``--above X``: met if the mean difference is at least X points and the corrected p below 0.05. ``--not-below``: met if
the whole interval lies above -0.1 points. Ten seeds reach p = 0.002; five can't reach 0.05.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.page import HERE, write_block
from benchmarks.rows import DISTINGUISHING_COLUMNS, Row, Series, number, read_rows, series
from masksearch.analysis import MARGIN, Estimate, Paired, holm, paired
from masksearch.criteria import CRITERIA
from masksearch.utils.errors import InputError
from masksearch.utils.number_text import number_text

__all__ = ["Bar", "Verdict", "report", "verdicts"]

_LEVEL = 0.05
_TEST, _VAL = "trained.test_accuracy", "trained.val_accuracy"
_SECONDS = ("dense", "search", "retrain")


@dataclass(frozen=True)
class Bar:
    """Least difference between a search and the best baseline, in accuracy (0 to 1); None: not below the baseline."""

    above: float | None = None  # in [0, 1]

    def met(self, pair: Paired, p: float) -> bool:
        """Return whether the difference reaches the bar; ``p`` is corrected by Holm's method."""
        if self.above is None:
            return pair.not_below
        mean = round(pair.difference.mean, 12)
        return mean >= self.above and mean > 0 and p < _LEVEL

    @property
    def least(self) -> float:
        """Difference that the bar asks for, in accuracy (0 to 1)."""
        return -MARGIN if self.above is None else self.above

    @property
    def text(self) -> str:
        """Text of the bar in tables, in points."""
        return "not below" if self.above is None else f"{100 * self.above:+g}"


@dataclass(frozen=True)
class Verdict:
    """Comparison of a search with the best baseline at one sparsity."""

    sparsity: float
    search: list[Row]  # by seed
    baseline: str  # the best by validation
    against: list[Row]  # its rows, by seed
    pair: Paired  # of test accuracies
    p: float  # corrected for the number of sparsities
    bar: Bar
    controls: dict[str, Paired | None]  # search minus control; None: there are no such rows
    left_out: list[str]  # baselines that lack seeds, or their validation accuracy

    @property
    def met(self) -> bool:
        """Whether the bar is met."""
        return self.bar.met(self.pair, self.p)


def verdicts(
    rows: Sequence[Row],
    method: str,
    bar: Bar,
    baselines: Sequence[str] = (),
    warm_start: str | None = None,
    sparsities: Sequence[float] = (),
) -> list[Verdict]:
    """Compare a search with the best baseline of every sparsity.

    Parameters
    ----------
    method : str
        The search, as its rows are called: ``annealing``, or ``annealing @3ep`` where there are several moments.
    baselines : sequence of str
        Methods that may be the best baseline, by the same names; all criteria if left out.
    warm_start : str, optional
        The name of the rows of what the search starts from, as a control; where the search's rows tell it, the
        criterion's own rows if left out.
    sparsities : sequence of float
        The stated comparisons, which the correction counts; all that the search has if left out.

    Raises
    ------
    InputError
        If there are no rows to compare.
    """
    found = series(rows)
    _need(found, [method, *baselines, *filter(None, [warm_start])])
    rivals = list(baselines) or [name for name in found if _is_baseline(found[name])]
    stated = list(sparsities) or sorted({sparsity for sparsity, _ in found[method]})
    own = method.split()[0]
    controls = {
        "random search": next(
            (name for name in (method.replace(own, "random_search", 1), "random_search") if name in found), ""
        ),
        "warm start": warm_start or _warm_start(found, method),
        "shuffled": next((name for name in found if _is_shuffled(found[name], found[method])), ""),
        "random": "random",
        "random, ERK": "random erk",
    }
    cases = []
    for sparsity in stated:
        search = _seeds(found[method], sparsity)
        if not search:
            raise InputError(f"sparsity: {sparsity:g}; {method} has {_list(sorted({s for s, _ in found[method]}))}")
        full = {name: rows for name in rivals if len(rows := _same(found[name], sparsity, search)) == len(search)}
        scores = {name: float(np.mean([number(row, _VAL) for row in rows])) for name, rows in full.items()}
        full = {name: rows for name, rows in full.items() if not math.isnan(scores[name])}
        if not full:
            raise InputError(
                f"baselines: none has a validation accuracy of every seed of {method} at sparsity {sparsity:g}: "
                f"{_list(search)}"
            )
        best = max(full, key=lambda name: scores[name])
        pairs = {
            title: _paired(search, _same(found.get(name, {}), sparsity, search)) for title, name in controls.items()
        }
        left_out = [name for name in rivals if name not in full]
        cases.append((sparsity, list(search.values()), best, full[best], pairs, left_out))
    compared = [paired(_tests(search), _tests(against)) for _, search, _, against, _, _ in cases]
    corrected = holm([pair.p for pair in compared])
    return [
        Verdict(sparsity, search, best, against, pair, float(p), bar, pairs, left_out)
        for (sparsity, search, best, against, pairs, left_out), pair, p in zip(cases, compared, corrected, strict=True)
    ]


def _warm_start(found: Series, method: str) -> str:
    """Return the name of the rows of the criterion that the search starts from; empty if there are none."""
    started = {row.get("warm_start", "") for row in found[method].values()}
    name, _, moment = started.pop().partition("@") if len(started) == 1 else ("", "", "")
    for title, rows in found.items():
        row = next(iter(rows.values()))
        same = row["method"] == name and moment in ("", row["find_at"])
        if same and _is_baseline(rows) and row.get("scope", "global") in ("", "global"):
            return title
    return ""


def _is_shuffled(rows: dict[tuple[float, int], Row], search: dict[tuple[float, int], Row]) -> bool:
    """Return whether rows are of the search's masks, shuffled within layers."""
    row, own = next(iter(rows.values())), next(iter(search.values()))
    same = all(row.get(column) == own.get(column) for column in ("method", "schedule", *DISTINGUISHING_COLUMNS))
    return row.get("control") == "shuffle" and same


def _need(found: Series, names: Iterable[str]) -> None:
    for name in names:
        if name not in found:
            raise InputError(f"method: no rows of {name!r}; there are {', '.join(found)}")


def _is_baseline(rows: dict[tuple[float, int], Row]) -> bool:
    row = next(iter(rows.values()))
    return row["method"] in CRITERIA and (row.get("control") or "none") == "none" and not row.get("connected")


def _seeds(rows: dict[tuple[float, int], Row], sparsity: float) -> dict[int, Row]:
    return {seed: row for (other, seed), row in sorted(rows.items()) if np.isclose(other, sparsity, atol=1e-9)}


def _same(rows: dict[tuple[float, int], Row], sparsity: float, search: dict[int, Row]) -> list[Row]:
    """Return the rows with the seeds of the search, in their order."""
    own = _seeds(rows, sparsity)
    return [own[seed] for seed in search if seed in own]


def _tests(rows: Iterable[Row]) -> list[float]:
    return [number(row, _TEST) for row in rows]


def _paired(search: dict[int, Row], control: list[Row]) -> Paired | None:
    if len(control) < len(search):
        return None
    return paired(_tests(search.values()), _tests(control))


def _list(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def report(found: Sequence[Verdict], method: str) -> str:
    """Return the verdicts and the costs of the search as Markdown tables."""
    names = [name for name in found[0].controls if any(verdict.controls[name] for verdict in found)]
    head = ["sparsity", "seeds", f"{method} %", "best baseline", "its %", "difference", "95 % interval", "p", "p, Holm"]
    head += ["bar", "interval above it", "met"]
    lines = [_line(head), _line(["---:", "---:", "---:", "---", *["---:"] * 6, "---", "---"])]
    lines += [_line(_figures(verdict)) for verdict in found]
    head = [
        "sparsity",
        *(f"minus {name}" for name in names),
        "gap",
        "scorings",
        "dense s",
        "search s",
        "retrain s",
        "search / retrain",
    ]
    lines += ["", _line(head), _line(["---:"] * len(head))]
    for verdict in found:
        controls = [_points(verdict.controls[name]) for name in names]
        lines.append(_line([f"{100 * verdict.sparsity:g} %", *controls, *_costs(verdict.search)]))
    left_out = sorted({name for verdict in found for name in verdict.left_out})
    if left_out:
        lines += ["", f"Left out (too few seeds, or no validation accuracies): {', '.join(left_out)}."]
    return "\n".join([*lines, ""])


def _figures(verdict: Verdict) -> list[str]:
    pair = verdict.pair
    return [
        f"{100 * verdict.sparsity:g} %",
        str(len(verdict.search)),
        Estimate.of(_tests(verdict.search)).text(100),
        verdict.baseline,
        Estimate.of(_tests(verdict.against)).text(100),
        pair.difference.plain("+.2f", 100),
        "–" if math.isnan(pair.low) else " to ".join(number_text(100 * end, "+.2f") for end in (pair.low, pair.high)),
        f"{pair.p:.4f}",
        f"{verdict.p:.4f}",
        verdict.bar.text,
        _yes(pair.above(verdict.bar.least)),
        _yes(verdict.met),
    ]


def _points(pair: Paired | None) -> str:
    return "–" if pair is None else pair.difference.text(100, sign="+")


def _costs(search: Sequence[Row]) -> list[str]:
    dense, seconds, retrain = ([number(row, f"seconds.{name}") for row in search] for name in _SECONDS)
    ratios = [one / other if other else math.nan for one, other in zip(seconds, retrain, strict=True)]
    return [
        Estimate.of(number(row, "score.accuracy_gap") for row in search).plain("+.1f", 100),
        Estimate.of(number(row, "score.scorings") for row in search).plain(",.0f"),
        *(_median(values, ".1f") for values in (dense, seconds, retrain)),
        _median(ratios, ".2f"),
    ]


def _median(values: Sequence[float], form: str) -> str:
    """Return the median of seconds as a text; a pause of the machine does not change it."""
    median = float(np.median(values))
    return "–" if math.isnan(median) else f"{median:{form}}"


def _yes(fine: bool) -> str:
    return "yes" if fine else "no"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None, home: Path = HERE) -> int:
    """Print the verdicts; exit code 0 if all are met, 1 if not, 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+", help="files of rows")
    parser.add_argument("--method", required=True, help="the search, as its rows are called")
    bar = parser.add_mutually_exclusive_group(required=True)
    bar.add_argument("--above", type=float, metavar="POINTS", help="at least so much better")
    bar.add_argument("--not-below", action="store_true", help="at most 0.1 points worse, for the whole interval")
    parser.add_argument("--baselines", nargs="+", default=[], metavar="NAME", help="all criteria if not given")
    parser.add_argument("--warm-start", metavar="NAME", help="what the search starts from, as a control")
    parser.add_argument(
        "--sparsity", type=float, nargs="+", default=[], help="the stated comparisons; all if not given"
    )
    parser.add_argument("--write", metavar="NAME", help="write the table between the lines <!-- NAME --> of its page")
    asked = parser.parse_args(arguments)
    try:
        wanted = Bar(None if asked.not_below else asked.above / 100)
        found = verdicts(read_rows(asked.rows), asked.method, wanted, asked.baselines, asked.warm_start, asked.sparsity)
        text = report(found, asked.method)
        if asked.write:
            write_block(asked.write, text, home)
    except InputError as error:
        print(f"goals: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0 if all(verdict.met for verdict in found) else 1


if __name__ == "__main__":
    sys.exit(main())
