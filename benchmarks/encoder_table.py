"""The table of pruned MiniLMs: means over seeds, and the lead of the search at equal MACs."""

from statistics import fmean, stdev

from benchmarks.rows import Row

SEARCH = "evopress, blocks, heads and neurons"


def table(rows: list[Row]) -> str:
    """Return means over seeds as Markdown, with standard deviations, and the lead of the search at equal MACs."""
    columns = ["MACs", "method", "fine-tuning", "seeds", "macro-F1, %", "lead of the search, points"]
    columns += ["recall at 10, %", "cosine", "latency, %"]
    lines = [f"| {' | '.join(columns)} |", "|---:|---|---|---:|---:|---:|---:|---:|---:|"]
    names = list(dict.fromkeys(row["method"] for row in rows))
    groups: dict[tuple[str, str, str], dict[str, Row]] = {}  # rows by seed
    for row in rows:
        groups.setdefault((row["stage"], row["macs"], row["method"]), {})[row["seed"]] = row
    for stage, macs, method in sorted(
        groups, key=lambda key: (key[0] != "before", -float(key[1]), names.index(key[2]))
    ):
        own, found = groups[stage, macs, method], groups.get((stage, macs, SEARCH), {})
        leads = [float(found[seed]["f1"]) - float(own[seed]["f1"]) for seed in own if seed in found]
        cells = [
            _mean(_numbers(own, "f1"), 100, 1),
            "–" if method == SEARCH else _mean(leads, 100, 1),
            _mean(_numbers(own, "recall"), 100, 1),
            _mean(_numbers(own, "cosine"), 1, 3),
            _mean(_numbers(own, "latency"), 100, 0),
        ]
        lines.append(f"| {100 * float(macs):g} % | {method} | {stage} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _numbers(rows: dict[str, Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows.values() if row.get(name)]


def _mean(values: list[float], scale: float, digits: int) -> str:
    """Return mean ± standard deviation of scaled values; a dash without values."""
    if not values:
        return "–"
    deviation = f" ± {scale * stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * fmean(values):.{digits}f}{deviation}"
