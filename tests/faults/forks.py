"""Trials in forked children: what they print, how they end, and faults of the disk that are injected into them.

The parent process only imports. It never runs torch, so that a fork is safe and imports are paid for once.
"""

import errno
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

__all__ = ["BROKEN", "FULL", "Disk", "Ended", "Faults", "run", "waited", "watch"]

Job = Callable[[], int | None]
"""What a child does; returns its exit code, None for 0."""


@dataclass(frozen=True)
class Ended:
    """The end of a child: exit code (negative: the signal; None: timed out), what it printed, and its seconds."""

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def kind(self) -> str:
        """How the child ended: done, refused (one line, exit code 2), or what went wrong."""
        if self.code is None:
            return "hang"
        if "Traceback (most recent call last)" in self.err or "Error in sys.excepthook" in self.err:
            return "traceback"
        if self.code < 0:
            return "killed" if self.code == -signal.SIGKILL else "crash"
        if self.code == 0:
            return "done"
        lines = [line for line in self.err.splitlines() if line.startswith("masksearch: ") and "waiting" not in line]
        return "refused" if self.code == 2 and len(lines) == 1 else f"exit {self.code} with {len(lines)} lines"


@dataclass(frozen=True)
class Disk:
    """A disk that fails once: at the n-th file operation below ``root``, with an error or by a kill.

    ``at`` 0 counts the operations only, and the child prints ``operations: N`` on stdout at its end.
    """

    root: Path
    at: int = 0
    error: int | None = None  # an errno; None: kill -9
    room: int | None = None  # largest file in bytes; a longer one fails as on a full disk

    def install(self) -> Callable[[], int]:
        """Install the faults in this process; return a function that counts the operations so far."""
        if self.room is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, resource.RLIM_INFINITY))
        count = 0

        def operation(event: str, path: str | None) -> None:
            nonlocal count
            count += 1
            if count == self.at:
                if self.error is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                assert self.error is not None
                raise OSError(self.error, os.strerror(self.error), path)

        watch(self.root, operation, sync=self.room is not None)
        return lambda: count


FULL, BROKEN = errno.ENOSPC, errno.EIO
_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.truncate")


class Faults(Protocol):
    """Faults to install in a child; with ``at`` 0, the child prints ``operations: N`` on stdout at its end."""

    @property
    def at(self) -> int:
        """Number of the operation that fails; 0: none, or several."""

    def install(self) -> Callable[[], int]:
        """Install the faults in this process; return a function that counts the operations so far."""


def watch(root: Path, operation: Callable[[str, str | None], None], sync: bool = False) -> None:
    """Call ``operation(event, path)`` before every file operation of this process below ``root``; fsync has no path.

    ``sync`` says whether fsync then flushes to the disk.
    """
    below, real_fsync = str(root), os.fsync

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in _EVENTS and arguments and isinstance(arguments[0], str) and arguments[0].startswith(below):
            operation(event, arguments[0])

    def fsync(handle: int) -> None:
        if str(Path(f"/proc/self/fd/{handle}").readlink()).startswith(below):
            operation("fsync", None)
        if sync:
            real_fsync(handle)

    sys.addaudithook(hook)
    os.fsync = fsync


def run(job: Job, faults: Faults | None = None, timeout: float = 60.0) -> Ended:
    """Run a job in a forked child, and return how the child has ended."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            _child(job, faults, out.fileno(), err.fileno())
        return waited(child, out, err, timeout)


def waited(child: int, out: IO[bytes], err: IO[bytes], timeout: float) -> Ended:
    """Wait for the end of a child that prints to two files; a child that takes too long is killed."""
    begun = time.monotonic()
    code: int | None = None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        if time.monotonic() - begun > timeout:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.003)
    texts = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read().decode(errors="replace"))
    return Ended(code, texts[0], texts[1], time.monotonic() - begun)


def _child(job: Job, faults: Faults | None, out: int, err: int) -> None:
    """Run the job with its output in files, and end the process."""
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w", buffering=1) for number in (1, 2))
        count = None if faults is None else faults.install()
        code = job() or 0
        if count is not None and faults is not None and not faults.at:
            print(f"operations: {count()}")
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
