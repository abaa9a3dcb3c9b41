"""One line in a terminal or a notebook that shows the current step of a long call."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from masksearch.utils.ranks import ranks


class Steps(Progress):
    """Progress line with the current step's name, a bar, a note and the time left; it disappears at the end."""

    def begin(self, step: str) -> None:
        """Show a new step's name on the progress line; how much of the step is done is unknown until :meth:`reach`."""
        for task in self.task_ids:
            self.remove_task(task)
        self.add_task(step, total=None, note="")

    def reach(self, share: float, note: str) -> None:
        """Show on the progress line which share of the current step is done, in [0, 1], and a note."""
        self.update(self.task_ids[-1], completed=share, total=1, note=note)


@contextmanager
def steps(progress: bool | Steps) -> Iterator[Steps]:
    """Context manager that gives a progress line (:class:`Steps`) on standard error for the steps of a long call.

    The line is shown if ``progress`` is True, and standard error is a terminal or the output of a notebook; with
    torchrun, rank 0 alone shows it. A line of an outer call is yielded unchanged.
    """
    if isinstance(progress, Steps):
        yield progress
        return
    console = Console(stderr=True)
    shown = progress and ranks().first and (sys.stderr.isatty() or console.is_jupyter)
    with Steps(
        TextColumn("{task.description}"),
        BarColumn(20),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # what the user prints stays on standard output
        speed_estimate_period=3600,  # seconds
        disable=not shown,
    ) as line:
        yield line
