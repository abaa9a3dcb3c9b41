"""What stopping bad trials early saves a search, and what it costs: one row for every sweep, means over its cells.

    python -m benchmarks.stopping runs/stop_none runs/stop_median

M images: millions of images that scorings looked at, in training and in validation; unlike seconds, that doesn't depend
on what else the machine was doing. The score on the rest of the validation images is that of the mask that was found.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from masksearch.errors import InputError
from masksearch.experiment import SweepResult, read_sweep
from masksearch.files import read_json
from masksearch.history_file import read_rows


def table(sweeps: Sequence[SweepResult]) -> Iterator[str]:
    """Lines of Markdown."""
    yield "| pruner | seeds | scorings | stopped | M images | seconds | best score | on the rest of val | by seed |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    for sweep in sweeps:
        pruner = read_json(sweep.path / "sweep.json")["settings"][0]["optuna"]["pruner"]
        histories = [list(read_rows(folder)) for folder in sweep.folders]
        stopped = [100 * np.mean([not trial.score.exact for trial in history]) for history in histories]
        images = [sum(trial.score.images for trial in history) / 1e6 for history in histories]
        seconds = [sum(trial.score.seconds for trial in history) for history in histories]
        best, rest = ([cell["score"][f"{part}_score"] for cell in sweep.cells] for part in ("search", "rest"))
        yield (
            f"| {pruner} | {len(histories)} | {len(histories[0])} | {np.mean(stopped):.0f} % | {np.mean(images):.2f} | "
            f"{np.mean(seconds):.1f} | {np.mean(best):.4f} | {np.mean(rest):.4f} | "
            f"{', '.join(f'{score:.4f}' for score in rest)} |"
        )


if __name__ == "__main__":
    try:
        for line in table([read_sweep(Path(path)) for path in sys.argv[1:]]):
            print(line, flush=True)
    except InputError as error:
        sys.exit(f"stopping: {error}")
