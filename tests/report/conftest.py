"""Sweeps for the reports of these tests; each runs once."""

import sys
from pathlib import Path

import pytest
from report_cases import COMMAND, METHODS, SPARSITY

from masksearch.experiment import Settings, run_sweep
from masksearch.experiment.settings.all_settings import RunSettings, ScoringSettings, SweepSettings
from masksearch.experiment.settings.schedule_settings import ScheduleSettings
from masksearch.report import write_report
from masksearch.supermasks import SupermaskSettings
from masksearch.training import TrainSettings

sys.path.insert(0, str(Path(__file__).parents[2]))  # for benchmarks, which are not installed


def _run(folder, name, schedules=None, epochs=1, **sweep):
    run = RunSettings(name=name, runs=str(folder), device="cpu", threads=1, latency_seconds=0.002)
    scoring = ScoringSettings(train_examples=150, search_examples=50)
    settings = Settings(
        SweepSettings(model="lenet_300_100:0.05", budget=15, **sweep),
        TrainSettings(epochs=epochs, lr=0.1),
        schedules or ScheduleSettings(),
        scoring,
        supermask=SupermaskSettings(epochs=1),
        run=run,
    )
    return run_sweep(settings)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A sweep over three seeds, and the path of its report."""
    result = _run(tmp_path_factory.mktemp("report"), "<a> & b", methods=METHODS, sparsity=SPARSITY, seeds=3)
    return result, write_report(result, COMMAND)


@pytest.fixture(scope="session")
def rounds(tmp_path_factory):
    """A sweep of lottery tickets in two rounds, one-shot tickets and controls, found at two moments; two seeds."""
    schedules = ScheduleSettings(schedule=("one_shot", "lottery_ticket"), rounds=(2,), control=("shuffle",))
    return _run(
        tmp_path_factory.mktemp("rounds"),
        "rounds",
        schedules,
        epochs=2,
        methods=("magnitude", "random"),
        sparsity=(0.5, 0.8),
        seeds=2,
        find_at=("1ep", "end"),
    )


@pytest.fixture(scope="session")
def dense_alone(tmp_path_factory):
    """A sweep that prunes nothing."""
    schedules = ScheduleSettings(schedule=("iterative",), rounds=(0,))
    return _run(tmp_path_factory.mktemp("dense"), "alone", schedules, epochs=2, methods=("snip",), seeds=2)
