"""Tables of a suite from its rows: means, tests against the best baseline, wins, Pareto fronts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.equal_costs import APART, COSTS, Cost, at_share, costs_differ, dense_cost, mean_points, shares
from benchmarks.rows import Row, number, series
from benchmarks.suites import Suite
from masksearch.analysis import Estimate, holm, paired, pareto_front, ranks, win_matrix
from masksearch.utils.number_text import number_text

__all__ = ["Blocks", "comparison", "suite_text"]


@dataclass(frozen=True)
class Blocks:
    """Measurements of several methods in blocks: the conditions within a block are equal."""

    names: tuple[str, ...]
    values: np.ndarray  # (n_blocks, n_methods)
    choosing: np.ndarray  # the same, of what chooses the best baseline


def suite_text(suite: Suite, files: Mapping[str, Sequence[Row]], cases: int) -> str:
    """Return the tables of a suite as Markdown.

    Parameters
    ----------
    files : mapping
        Rows by sweep, as far as they are there.
    cases : int
        How many there are when all is finished.
    """
    files = {name: rows for name, rows in files.items() if rows}
    parts = [_made_by(files.values(), cases)]
    for name, rows in files.items():
        parts += [f"`{name}`: {_title(rows[0])}", _means(suite, rows)]
        if suite.blocks == "sparsities":
            parts += [_fronts(rows), *_at_equal_costs(suite, rows)]
    for title, blocks in _all_blocks(suite, files).items():
        parts += [f"{title}, {len(blocks.values)} blocks:", comparison(blocks, suite.scale, suite.digits)]
    return "\n\n".join(parts) + "\n"


def _made_by(files: Iterable[Sequence[Row]], cases: int) -> str:
    rows = [row for rows in files for row in rows]
    machines = {
        f"masksearch {row['masksearch']}, torch {row['torch']}, {row['device']}, threads: {row['threads']}"
        for row in rows
    }
    return f"{len(rows)} of {cases} cases. {'; '.join(sorted(machines))}."


def _title(row: Row) -> str:
    return f"{row['dataset']}, {row['model']}, {row['granularity']}s; rows in `results/{row['sweep']}.csv`."


def _means(suite: Suite, rows: Sequence[Row]) -> str:
    """Return a table of methods x sparsities; the best method by validation is bold."""
    found = series(rows)
    sparsities = sorted({sparsity for places in found.values() for sparsity, _ in places})
    most = max(int(row["seed"]) for row in rows) + 1
    table = {name: {} for name in found}
    best: dict[float, tuple[float, str]] = {}
    for name, places in found.items():
        for sparsity in sparsities:
            own = [row for (other, _), row in sorted(places.items()) if other == sparsity]
            if own:
                text = Estimate.of(number(row, suite.value) for row in own).text(suite.scale, suite.digits)
                table[name][sparsity] = text + f" ({len(own)})" * (len(own) < most)
                chosen = Estimate.of(number(row, suite.chosen_by) for row in own).mean
                best[sparsity] = max(best.get(sparsity, (-np.inf, "")), (chosen, name))
    head = ["method", *(f"{100 * sparsity:g} %" for sparsity in sparsities)]
    lines = [_line(head), _line(["---", *["---:"] * len(sparsities)])]
    for name, cells in table.items():
        texts = [cells.get(sparsity, "–") for sparsity in sparsities]
        bold = [f"**{text}**" if best[one][1] == name else text for one, text in zip(sparsities, texts, strict=True)]
        lines.append(_line([name, *bold]))
    return "\n".join(lines)


def _fronts(rows: Sequence[Row]) -> str:
    """Return a sentence per cost with the methods on its Pareto front, from the cheapest on."""
    lines = []
    for cost in COSTS:
        points = mean_points(rows, "trained.test_accuracy", cost.column)
        labels = [f"{name} {100 * sparsity:g} % ({spent:,.0f})" for (name, sparsity), (_, spent) in points.items()]
        front = [labels[place] for place in pareto_front(*zip(*points.values(), strict=True))]
        lines.append(f"Pareto front of test accuracy and {cost.word}: {', '.join(front)}.")
    return " ".join(lines)


def _at_equal_costs(suite: Suite, rows: Sequence[Row]) -> list[str]:
    """Return for every cost a table of methods x shares of the dense cost, or the reason why there is none."""
    parts = []
    for cost in COSTS:
        if not costs_differ(rows, cost):
            about = f"{cost.word[0].upper()}{cost.word[1:]} differ by less than {100 * APART:g} % at every sparsity"
            parts.append(f"{about}, so the first table also compares at equal {cost.word}.")
        elif chosen := shares(rows, cost):
            about = f"At equal {cost.word}, as shares of the dense network's {dense_cost(rows, cost):,.0f}"
            parts += [f"{about}:", _shares_table(suite, rows, cost, chosen)]
        else:
            about = (
                f"No table at equal {cost.word}: at no value do two thirds of the methods have results on both sides"
            )
            parts.append(f"{about}.")
    return parts


def _shares_table(suite: Suite, rows: Sequence[Row], cost: Cost, chosen: Sequence[float]) -> str:
    """Return a table of methods x shares; the best method by validation at a share is bold."""
    table = series(rows)
    texts = {name: [at_share(places, cost, suite.value, one) for one in chosen] for name, places in table.items()}
    choosing = {
        name: [at_share(places, cost, suite.chosen_by, one).mean for one in chosen] for name, places in table.items()
    }
    best = [
        max(table, key=lambda name: np.nan_to_num(choosing[name][place], nan=-np.inf)) for place in range(len(chosen))
    ]
    lines = [
        _line(["method", *(f"{100 * one:g} % of {cost.word}" for one in chosen)]),
        _line(["---", *["---:"] * len(chosen)]),
    ]
    for name, estimates in texts.items():
        cells = [one.text(suite.scale, suite.digits) for one in estimates]
        bold = [f"**{cell}**" if name == first else cell for cell, first in zip(cells, best, strict=True)]
        lines.append(_line([name, *bold]))
    return "\n".join(lines)


def _all_blocks(suite: Suite, files: Mapping[str, Sequence[Row]]) -> dict[str, Blocks]:
    """Return {title: blocks}; a block is a seed (per sweep and sparsity) or a sweep at a sparsity (per granularity)."""
    found: dict[str, Blocks] = {}
    if suite.blocks == "seeds":
        for name, rows in files.items():
            for sparsity in sorted({number(row, "sparsity") for row in rows}):
                own = series([row for row in rows if number(row, "sparsity") == sparsity])
                found[f"`{name}` at {100 * sparsity:g} %, one block per seed"] = _blocks(suite, [own], by_seed=True)
    else:
        for granularity in dict.fromkeys(rows[0]["granularity"] for rows in files.values()):
            own = [series(rows) for rows in files.values() if rows[0]["granularity"] == granularity]
            title = f"{granularity.capitalize()}s, one block per sweep and sparsity, means over seeds"
            found[title] = _blocks(suite, own, by_seed=False)
    return {title: blocks for title, blocks in found.items() if len(blocks.values) and len(blocks.names) > 1}


def _blocks(suite: Suite, sweeps: Sequence[Mapping[str, Mapping[tuple[float, int], Row]]], by_seed: bool) -> Blocks:
    """Return the blocks in which every method has a value for every seed."""
    names = tuple(name for name in sweeps[0] if all(name in sweep for sweep in sweeps))
    values, choosing = [], []
    for sweep in sweeps:
        places = sorted({place for name in names for place in sweep[name]})
        for block in dict.fromkeys(place if by_seed else place[:1] for place in places):
            inside = [place for place in places if place[: len(block)] == block]
            if all(place in sweep[name] for name in names for place in inside):
                means = {
                    column: [np.mean([number(sweep[name][place], column) for place in inside]) for name in names]
                    for column in (suite.value, suite.chosen_by)
                }
                if not np.isnan(list(means.values())).any():
                    values.append(means[suite.value])
                    choosing.append(means[suite.chosen_by])
    shape = (len(values), len(names))
    return Blocks(names, np.array(values).reshape(shape), np.array(choosing).reshape(shape))


def comparison(blocks: Blocks, scale: float = 100.0, digits: int = 2) -> str:
    """Return mean ranks, differences from the best baseline with tests, and a matrix of wins, as Markdown."""
    names, values = blocks.names, blocks.values
    best = int(np.argmax(blocks.choosing.mean(0)))
    others = [place for place in range(len(names)) if place != best]
    pairs = {place: paired(values[:, place], values[:, best]) for place in others}
    corrected = dict(zip(others, holm([pairs[place].p for place in others]), strict=True))
    ranked, wins = ranks(values), win_matrix(values)
    order = sorted(range(len(names)), key=lambda place: ranked.mean[place])
    head = ["method", "mean", "mean rank", f"minus {names[best]}", "wins–losses", "p", "p, Holm"]
    lines = [_line(head), _line(["---", *["---:"] * 6])]
    for place in order:
        row = [names[place], number_text(scale * values[:, place].mean(), f".{digits}f"), f"{ranked.mean[place]:.2f}"]
        if place == best:
            row += ["best by validation", "", "", ""]
        else:
            pair = pairs[place]
            row += [pair.difference.text(scale, digits, "+"), f"{pair.wins}–{pair.losses}"]
            row += [f"{pair.p:.4f}", f"{corrected[place]:.4f}"]
        lines.append(_line(row))
    notes = [f"Wilcoxon's signed-rank test, Holm's correction over the {len(others)} comparisons of the table."]
    if not np.isnan(ranked.p):
        notes.append(
            f"Friedman's test: p = {ranked.p:.2g}; mean ranks that differ by more than {ranked.critical:.2f} differ "
            "significantly (Nemenyi, 5 %)."
        )
    lines += [
        "",
        " ".join(notes),
        "",
        '<details markdown="1"><summary>Wins of the methods in rows over those in columns</summary>',
        "",
        _line([f"of {len(values)} blocks", *(names[place] for place in order)]),
        _line(["---", *["---:"] * len(order)]),
        *(
            _line([names[row], *("–" if row == column else f"{wins[row, column]:g}" for column in order)])
            for row in order
        ),
        "",
        "</details>",
    ]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
