"""A quick selection of the campaign of faults."""

import subprocess
import sys

from fault_cases import ENVIRONMENT, ROOT


def table_of_campaign(*flags):
    words = [sys.executable, "-m", "tests.faults", *flags]
    ended = subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-6000:]
    return ended.stdout


def test_quick_selection_of_the_fault_campaign_holds():
    assert "| damaged file, run again |" in table_of_campaign()


def test_killed_workers_do_not_change_results():
    table = table_of_campaign("--parts", "workers: processes killed*", "--share", "0.1")
    assert "| workers: processes killed at random | 1 | 1 |" in table
