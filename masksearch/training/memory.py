"""Memory that a training step has freed stays with the process for the next one."""

import ctypes
from functools import cache

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_KEPT = 1 << 30  # bytes
_LARGEST = 32 << 20  # bytes, the most that glibc takes for this threshold


@cache
def keep_freed_memory() -> bool:
    """Let glibc hold up to 1 GiB of freed memory, for the whole process; return whether it does.

    By its defaults a tensor of some megabytes goes back to the kernel when it is freed, and the next step gets it anew,
    page by page and filled with zeros (mallopt(3)). Other C libraries have no such switch; there, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
