"""The benchmarks are not an installed package: the path of the repository is added."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


@pytest.fixture
def brief(monkeypatch, tmp_path):
    """A working folder; the number of threads is restored afterwards."""
    import torch

    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)
