"""Sweeps that are killed at any moment and resumed have the same files as an uninterrupted sweep."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SEARCH, DENSE, RETRAIN = (
    "sweep/annealing*/search.safetensors",
    "dense/*/checkpoint_*.safetensors",
    "sweep/*/retraining.safetensors",
)


class Driver:
    """A process that runs sweeps in children, which may be killed."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("kill_driver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def begin(self, runs):
        """Start a sweep; its process id."""
        self._process.stdin.write(f"{runs}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self):
        """Wait for the sweep's end; its exit code."""
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="module")
def driver():
    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture(scope="module")
def uninterrupted(driver, tmp_path_factory):
    runs = tmp_path_factory.mktemp("uninterrupted")
    driver.begin(runs)
    assert driver.end() == 0
    return runs


def strip_seconds(node):
    """JSON without wall-clock fields, and without the checksum that depends on them."""
    if isinstance(node, dict):
        left_out = ("seconds", "latency", "checksum")
        return {name: strip_seconds(value) for name, value in node.items() if name not in left_out}
    return [strip_seconds(value) for value in node] if isinstance(node, list) else node


def results(runs):
    """Everything that has to be the same: bytes by file, rows and metrics without wall-clock fields."""
    found = {}
    for path in sorted(runs.rglob("*")):
        name = str(path.relative_to(runs))
        if (path.suffix == ".safetensors" and path.name != "search.safetensors") or path.name == "moves.i32":
            found[name] = path.read_bytes()
        elif path.name == "history.jsonl":
            found[name] = [strip_seconds(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name in ("metrics.json", "settings.json", "status.json"):
            found[name] = strip_seconds(json.loads(path.read_text()))
    return found


def kill_when(driver, runs, pattern, delay):
    """Begin or go on, kill so many seconds after a file that fits has been written; was it still there then?"""
    process = driver.begin(runs)
    deadline = time.monotonic() + 20
    began = time.time_ns()
    while not any(path.stat().st_mtime_ns > began for path in _existing(runs, pattern)):
        assert time.monotonic() < deadline, f"{pattern} was not written"
        time.sleep(0.002)
    time.sleep(delay)
    os.kill(process, signal.SIGKILL)
    assert driver.end() == -signal.SIGKILL
    return bool(_existing(runs, pattern))


def _existing(runs, pattern):
    paths = []
    for path in runs.glob(pattern):
        try:
            path.stat()
        except FileNotFoundError:
            continue
        paths.append(path)
    return paths


def test_uninterrupted_sweep_has_equal_files_in_two_runs(driver, uninterrupted, tmp_path):
    driver.begin(tmp_path)
    assert driver.end() == 0
    assert results(tmp_path) == results(uninterrupted)
    assert len([name for name in results(tmp_path) if name.endswith("mask.safetensors")]) == 2 + 4  # in two rounds


def test_sweep_killed_in_every_stage_equals_uninterrupted_sweep(driver, uninterrupted, tmp_path):
    rng = random.Random(0)
    hit = {DENSE: 0, SEARCH: 0, RETRAIN: 0}
    for stage in hit:
        for _ in range(2):
            hit[stage] += kill_when(driver, tmp_path, stage, rng.uniform(0, 0.08))
            cells = list(tmp_path.glob("sweep/*/metrics.json"))
            assert len(cells) < 4, "the sweep was over before it was killed"
    assert all(hit.values())  # checkpoints lay there: the next process went on from them
    driver.begin(tmp_path)
    assert driver.end() == 0
    assert results(tmp_path) == results(uninterrupted)
    assert not list(tmp_path.rglob("retraining.safetensors"))


def test_sweep_killed_at_random_moments_equals_uninterrupted_sweep(driver, uninterrupted, tmp_path):
    rng, kills = random.Random(7), 0
    for _ in range(8):
        process = driver.begin(tmp_path)
        time.sleep(rng.uniform(0.05, 0.7))
        os.kill(process, signal.SIGKILL)  # not yet waited for, so that it is nobody else's id
        kills += driver.end() == -signal.SIGKILL
    assert kills > 2
    driver.begin(tmp_path)
    assert driver.end() == 0
    assert results(tmp_path) == results(uninterrupted)
