"""Take a finished sweep into the benchmarks: its rows as CSV, its table into README.md.

    python -m benchmarks.collect runs/thesis_mlp_cpu

The rows go to ``benchmarks/results/<name>.csv``; the table goes between the lines ``<!-- <name> -->`` and
``<!-- end of <name> -->`` of ``benchmarks/README.md``, with the machine and the versions that made it.
"""

import csv
import re
import sys
from pathlib import Path

from masksearch.analysis import summarise
from masksearch.errors import InputError
from masksearch.experiment import SweepResult, read_sweep
from masksearch.report import markdown_table

HERE = Path(__file__).parent
_GROUPS = ("score", "found", "untrained", "trained", "cost", "seconds")


def flat_row(cell: dict, machine: dict) -> dict:
    """One cell as a flat row: what it is, every single number, and what made it."""
    row = {name: cell[name] for name in ("method", "sparsity", "find_at", "seed")}
    row["density"], row["empty_layers"] = cell["mask"]["density"], " ".join(cell["mask"]["empty_layers"])
    for group in _GROUPS:
        row |= {f"{group}.{name}": value for name, value in cell[group].items() if not isinstance(value, dict)}
    row |= {f"dense.{name}": value for name, value in cell["dense"].items() if not isinstance(value, dict)}
    row |= {f"dense.{name}": cell["dense"]["cost"][name] for name in ("params", "macs")}
    return row | {name: machine[name] for name in ("masksearch", "torch", "device", "threads")}


def write_rows(result: SweepResult, path: Path) -> None:
    """All cells, a row each."""
    rows = [flat_row(cell, result.machine) for cell in result.cells]
    with path.open("w", newline="") as sink:
        writer = csv.DictWriter(sink, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def replace_block(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the markers of ``name``."""
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end of {re.escape(name)} -->)", re.DOTALL)
    if not pattern.search(page):
        raise InputError(f"benchmarks/README.md: no lines <!-- {name} --> and <!-- end of {name} -->")
    return pattern.sub(lambda match: match[1] + text + match[2], page)


def main(folder: str) -> None:
    """Collect the sweep in ``folder``."""
    result = read_sweep(Path(folder))
    name = result.path.name
    write_rows(result, HERE / "results" / f"{name}.csv")
    machine = result.machine
    made = (
        f"masksearch {machine['masksearch']}, torch {machine['torch']}, {machine['device']}, "
        f"{machine['threads']} thread{'s' * (machine['threads'] != '1')}; rows in `results/{name}.csv`."
    )
    page = HERE / "README.md"
    block = f"{markdown_table(summarise(result.cells))}\n{made}\n"
    page.write_text(replace_block(page.read_text(), name, block))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
