"""Runs one sweep per line of stdin, each in a child process of its own, with checkpoints after every trial and epoch.

A line is the folder of the runs. The child's process id is printed when it begins, its exit code when it has ended.
Nothing of torch runs in here before the fork, so that forking is safe, and importing is paid for once.
"""

import os
import sys
import time
from pathlib import Path

import sklearn.datasets  # noqa: F401 (by the digits)

from masksearch.experiment import Settings, SweepCallback, run_sweep
from masksearch.experiment.settings.all_settings import RunSettings, SweepSettings
from masksearch.experiment.settings.schedule_settings import ScheduleSettings
from masksearch.searching.history_store import HistoryFile
from masksearch.training import TrainSettings, training_loop

DEVICE = os.environ.get("MASKSEARCH_TEST_DEVICE", "cpu")
HistoryFile.checkpoint_seconds = 0.02
training_loop.CHECKPOINT_SECONDS = 0.0


class Slow(SweepCallback):
    """Stretches every stage, so that a kill can hit it."""

    def trial(self, cell, trial):
        time.sleep(0.001)

    def epoch(self, row):
        time.sleep(0.01)


def settings(runs):
    sweep = SweepSettings(
        model="lenet_300_100:0.1", methods=("annealing", "snip"), sparsity=(0.8,), seeds=1, budget=200
    )
    schedules = ScheduleSettings(schedule=("one_shot", "iterative"), rounds=(2,), rewind_to=("1ep",))
    run = RunSettings(runs=str(runs), device=DEVICE, deterministic=DEVICE != "cpu", threads=1)
    return Settings(sweep, TrainSettings(epochs=10, lr=0.1), schedules=schedules, run=run)


def main():
    for line in sys.stdin:
        child = os.fork()
        if not child:
            run_sweep(settings(Path(line.strip())), Slow())
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
