"""Leases: objects that say which process works in a folder of a storage, and until when."""

import json
import os
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType

import msgspec

from masksearch.experiment.store.object_storage import ObjectStorage
from masksearch.utils.errors import InputError, StorageError
from masksearch.utils.locks import say


@dataclass(frozen=True)
class _Claim:
    """Content of a lease object."""

    token: str
    process: str  # process 123 on host
    machine: str
    number: int  # of the process
    expires: float  # seconds since 1970; 0: the process has ended its work

    @property
    def is_over(self) -> bool:
        """Whether the lease has expired, or the process that holds it ran on this machine and has ended."""
        return self.expires < time.time() or (self.machine == _machine() and not _runs(self.number))


class Lease:
    """Context manager that reserves a folder in object storage for this process, by a lease that it renews.

    The lease objects of a folder are numbered. A new holder creates the next number, which only one process can do; the
    highest number counts. Clocks of machines may differ by less than ``seconds``.

    Parameters
    ----------
    folder : str
        Name of the folder, such as ``sweep``.
    wait : bool
        Wait for another holder, with a line on stderr, instead of raising an error.

    Raises
    ------
    InputError
        If another process holds the lease; the message has its name and when the lease expires.
    """

    seconds = 120.0
    """Time after which a lease expires that is not renewed; it is renewed four times as often."""

    def __init__(self, storage: ObjectStorage, folder: str, *, wait: bool = False) -> None:
        self._storage, self._folder, self._wait = storage, folder, wait
        process = f"process {os.getpid()} on {socket.gethostname()}"
        self._claim = _Claim(secrets.token_hex(16), process, _machine(), os.getpid(), 0.0)
        self._name, self._stopped, self._writing = "", Event(), Lock()

    @property
    def token(self) -> str:
        """Random text that identifies this process as holder of the lease, for :func:`check_lease`."""
        return self._claim.token

    def __enter__(self) -> "Lease":
        said = False
        while True:
            number, holder = _latest(self._storage, self._folder)
            if holder is None or holder.is_over:
                self._name = f"{self._folder}/lease/{number + 1:09}.json"
                self._storage.create(self._name, self._renewed())
                if self._holds():
                    break
                continue  # another process was faster
            left = max(0, round(holder.expires - time.time()))
            clock = time.strftime("%H:%M:%S", time.localtime(holder.expires))
            about = f"{holder.process}; its lease expires at {clock}, in {left} s, unless that process renews it"
            if not self._wait:
                raise InputError(
                    f"run folder {self._storage / self._folder}: another process is working in it: {about}; wait for "
                    "it, or use another --name"
                )
            if not said:
                said = True
                say(f"masksearch: waiting for {self._storage / self._folder}: another process works in it: {about}")
            time.sleep(1.0)
        older = [name for name in self._storage.names(f"{self._folder}/lease") if name < self._name]
        self._storage.remove(older)
        Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        with self._writing, suppress(StorageError):
            if self._holds():
                self._storage.write(self._name, _sealed(replace(self._claim, expires=0.0)))

    def _renew(self) -> None:
        """Renew the lease until the context ends, or until another process holds the lease."""
        while not self._stopped.wait(self.seconds / 4):
            with self._writing, suppress(StorageError):  # an operation that fails is repeated in the next turn
                if self._stopped.is_set() or not self._holds():
                    return
                self._storage.write(self._name, self._renewed())

    def _renewed(self) -> bytes:
        return _sealed(replace(self._claim, expires=time.time() + self.seconds))

    def _holds(self) -> bool:
        holder = _latest(self._storage, self._folder)[1]
        return holder is not None and holder.token == self.token


def check_lease(storage: ObjectStorage, folder: str, token: str) -> None:
    """Raise a StorageError unless a folder is reserved (leased) for the process with ``token``."""
    holder = _latest(storage, folder)[1]
    if holder is None or holder.token != token:
        by = "is gone" if holder is None else f"was taken over by {holder.process}"
        raise StorageError(
            f"run folder {storage / folder}: the lease of this run {by}; this process writes nothing more there; "
            "finished cells are kept on this machine"
        )


def _latest(storage: ObjectStorage, folder: str) -> tuple[int, _Claim | None]:
    """Return the highest number among a folder's lease objects (0 for none), and its claim if it can be read."""
    for name in reversed(storage.names(f"{folder}/lease")):
        number = Path(name).stem
        if number.isdigit():
            with suppress(msgspec.DecodeError, msgspec.ValidationError):
                return int(number), msgspec.json.decode(storage.read(name) or b"", type=_Claim)
            return int(number), None
    return 0, None


def _sealed(claim: _Claim) -> bytes:
    return json.dumps(asdict(claim)).encode()


def _machine() -> str:
    """Return a name of this machine since its start, and of its process numbers, which differ between containers."""
    words = [socket.gethostname()]
    with suppress(OSError):
        words.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        words.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(words)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
