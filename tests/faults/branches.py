"""A run that is forked before its file operations: in each fork, the operation fails in one way.

So every operation of a run fails once, and the part of the run before it is computed once for all of them.
"""

import hashlib
import json
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.forks import Ended, waited, watch

__all__ = ["Branch", "Branches", "branches_of", "unforked_of"]

_LINE, _UNFORKED = "branch\t", "unforked\t"
_SECONDS = 120.0  # of a fork, at most


@dataclass(frozen=True)
class Branch:
    """A fork of a run: the operation that failed in it, how the fork ended, and the folder with what it left."""

    operation: int
    what: str
    fault: str
    ended: Ended
    state: str


@dataclass
class Branches:
    """Forks of a run, before every ``stride``-th file operation below ``root``; in each, the operation fails.

    A fork works in the run's folder while the run waits. Then the folder gets its former content back, in the same
    inodes, since the run has open files. The content that a fork leaves is written to a folder in ``states``; equal
    contents share one folder. A run that is acquiring a lock is not forked, since a fork could not use the lock; the
    numbers of these operations are printed.
    """

    root: Path
    states: Path
    faults: Mapping[str, int | None]  # name -> errno; None: kill -9
    stride: int = 1
    at: int = 0  # as of Disk: the number of operations is printed at the end
    _count: int = 0
    _idle: bool = True
    _known: dict[str, str] = field(default_factory=dict)  # digest of a content -> its folder's name

    def install(self) -> Callable[[], int]:
        """Install the forks in this process; return a function that counts the operations so far."""
        watch(self.root, self._before)
        return lambda: self._count

    def _before(self, event: str, path: str | None) -> None:
        if not self._idle:
            return
        self._count += 1
        if self._count % self.stride:
            return
        if _acquires_lock():
            print("\n" + _UNFORKED + str(self._count), flush=True)
            return
        assert threading.active_count() == 1, threading.enumerate()  # a fork has no other threads
        self._idle = False
        sys.stdout.flush()
        sys.stderr.flush()
        content, offsets = _content(self.root), _offsets(self.root)
        for name, error in self.faults.items():
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
                child = os.fork()
                if not child:
                    _redirect(out.fileno(), err.fileno())
                    if error is None:
                        os.kill(os.getpid(), signal.SIGKILL)
                    assert error is not None
                    raise OSError(error, os.strerror(error), path)
                ended = waited(child, out, err, _SECONDS)
            after = _content(self.root)
            what = f"{event} {path and Path(path).relative_to(self.root)}"
            row = [self._count, what, name, ended.code, ended.err, ended.seconds, self._kept(after)]
            print("\n" + _LINE + json.dumps(row), flush=True)
            _restore(self.root, content, after)
            for handle, offset in offsets.items():
                os.lseek(handle, offset, os.SEEK_SET)
        self._idle = True

    def _kept(self, content: Mapping[str, bytes | None]) -> str:
        """Write a content to a folder, if it is new; return the folder's name."""
        sha = hashlib.sha256()
        for name, data in content.items():
            if not name.endswith(".lock"):  # they name processes
                sha.update(f"{name} {-1 if data is None else len(data)}\0".encode())
                sha.update(data or b"")
        state = self._known.setdefault(sha.hexdigest(), str(len(self._known)))
        if not (self.states / state).exists():
            (self.states / state).mkdir()
            _restore(self.states / state, content, {})
        return state


def _acquires_lock() -> bool:
    """Return whether this process is acquiring a lock, which a fork of it could not use."""
    frames = traceback.walk_stack(None)
    return any("filelock" in frame.f_code.co_filename and "acquire" in frame.f_code.co_name for frame, _ in frames)


def unforked_of(out: str) -> Iterator[int]:
    """Yield the numbers of the operations before which a run with :class:`Branches` was not forked."""
    for line in out.splitlines():
        if line.startswith(_UNFORKED):
            yield int(line.removeprefix(_UNFORKED))


def branches_of(out: str) -> Iterator[Branch]:
    """Yield the forks that a run with :class:`Branches` has printed."""
    for line in out.splitlines():
        if line.startswith(_LINE):
            number, what, fault, code, err, seconds, state = json.loads(line.removeprefix(_LINE))
            yield Branch(number, what, fault, Ended(code, "", err, seconds), state)


def _content(root: Path) -> dict[str, bytes | None]:
    """Return {path below ``root``: bytes of the file; None for a folder}, folders before what is in them."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }


def _restore(root: Path, content: Mapping[str, bytes | None], now: Mapping[str, bytes | None]) -> None:
    """Give a folder that has the content ``now`` another content; files of both keep their inodes."""
    for name in sorted(now.keys() - content.keys(), reverse=True):
        (root / name).rmdir() if now[name] is None else (root / name).unlink()
    for name, data in content.items():
        if data is None:
            (root / name).mkdir(exist_ok=True)
        elif name not in now:
            (root / name).write_bytes(data)
        elif now[name] != data:
            with (root / name).open("r+b") as sink:
                sink.truncate(0)
                sink.write(data)


def _offsets(root: Path) -> dict[int, int]:
    """Return {handle: offset} of the open files below ``root``; a fork shares the offsets with the run."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            if str(link.readlink()).startswith(str(root)):
                found[int(link.name)] = os.lseek(int(link.name), 0, os.SEEK_CUR)
        except OSError:  # the handle that lists the folder
            continue
    return found


def _redirect(out: int, err: int) -> None:
    """Let everything that is printed in this process go to two other files."""
    handles = {int(link.name): link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    for number, target in ((1, out), (2, err)):
        for handle, file in handles.items():
            if file == handles[number] and handle not in (out, err):
                os.dup2(target, handle)
