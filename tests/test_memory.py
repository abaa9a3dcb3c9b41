"""Memory of the command line: memory that a step frees is reused without new pages from the kernel."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from masksearch.cli.run_command import keep_freed_memory
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step = [torch.ones(3_000_000) for _ in range(8)]  # 12 MB each, 2,930 pages
        del step
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
print(keep_freed_memory(), first, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_reused_without_new_pages():
    kept, first, second = subprocess.check_output([sys.executable, "-c", FAULTS], text=True).split()
    assert kept == "True"
    assert 8 * int(second) < int(first)  # those of a step at most, not of every step
