"""The benchmarks are no package that is installed: they lie beside the tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture
def brief(monkeypatch, tmp_path):
    """Threads as they were, and a folder to run in."""
    import torch

    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)
