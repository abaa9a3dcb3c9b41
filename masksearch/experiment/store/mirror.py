"""The mirror of a sweep: its runs work in local folders, whose files are downloaded from a URL and uploaded to it."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event, Thread

from masksearch.experiment.settings.all_settings import RunSettings
from masksearch.experiment.store.folder_manifest import FolderCopy, Manifest, read_manifests
from masksearch.experiment.store.lease import Lease, check_lease
from masksearch.experiment.store.object_storage import ObjectStorage, storage_at
from masksearch.experiment.store.run_folder import FAILURE_FILES, is_done, locked
from masksearch.experiment.store.sweep_plan import read_plan
from masksearch.utils.errors import InputError
from masksearch.utils.files import is_folder_name, read_json
from masksearch.utils.integrity import refusing
from masksearch.utils.locks import say

_TRANSFERS = 16  # folders at a time
_REPORT = ("report.html", "results.csv", "results.md", "figures/*", "figures/**/*")


@dataclass(frozen=True)
class Mirror:
    """Copier of folders between this machine and the URL in the setting ``runs``; without a URL it does nothing.

    Parameters
    ----------
    token : str
        Names the holder of the sweep's lease; "" for a process that only reads.
    """

    run: RunSettings
    token: str = ""

    @contextmanager
    def work(self, folder: Path, *, shared: bool = False) -> Iterator[None]:
        """Context manager that downloads a folder, uploads checkpoints during work in it, and all files at the end.

        An exception of the work uploads nothing more.

        Parameters
        ----------
        shared : bool
            The folder belongs to several sweeps: while it is unfinished, its own lease is held, too.
        """
        if not self.run.is_remote:
            yield
            return
        copy = self._copy(folder)
        with ExitStack() as leases:
            if not copy.is_known(whole=True):
                [remote] = read_manifests([copy])
                if shared and not (remote and remote.done):
                    leases.enter_context(Lease(self._storage, copy.name, wait=True))
                    [remote] = read_manifests([copy])
                with locked(folder, wait=True, reentrant=True):
                    copy.fetch(remote)
            with _uploads(partial(copy.publish, self._check), self.run.upload_seconds, str(folder)):
                yield
            if copy.has_changed():
                with locked(folder, wait=True, reentrant=True):
                    copy.publish(self._check)

    def fetch(self, folder: Path) -> None:
        """Download the results and masks of one run from the storage, if the run is finished there."""
        self.synchronise([folder], upload=False)

    def synchronise(self, folders: Iterable[Path], *, upload: bool = True, whole: bool = False) -> None:
        """Download results of finished runs that this machine lacks, and upload those that the storage lacks.

        Parameters
        ----------
        whole : bool
            Also bring weights.
        """
        if not self.run.is_remote:
            return
        copies = [copy for copy in map(self._copy, folders) if not copy.is_known(whole=whole)]
        manifests = read_manifests(copies)
        with ThreadPoolExecutor(_TRANSFERS) as pool:
            list(pool.map(partial(self._synchronise, upload=upload, whole=whole), copies, manifests))
        fronts = {folder for copy in copies if (folder := self._front(copy.path)) and not folder.exists()}
        searches = list(map(self._copy, fronts))
        for search, remote in zip(searches, read_manifests(searches), strict=True):
            search.fetch(remote)

    def _synchronise(self, copy: FolderCopy, remote: Manifest | None, *, upload: bool, whole: bool) -> None:
        if remote is not None and remote.done:
            copy.fetch(remote, light=not whole)
        elif upload and (is_done(copy.path) or (remote is None and (copy.path / FAILURE_FILES[0]).exists())):
            copy.publish(self._check)
        elif remote is not None:
            for name in FAILURE_FILES:
                copy.fetch_file(remote, name)

    def _front(self, cell: Path) -> Path | None:
        """Return the folder of the search of a front that a finished cell's mask is from; None for other cells."""
        file = cell / "metrics.json"
        with refusing(file):
            choice = read_json(file, {}).get("front") if file.exists() else None
            above, _, name = choice["folder"].partition("/") if choice else ("", "", "")
        return self.run.folder / above / name if above == "fronts" and is_folder_name(name) else None

    def publish_plan(self) -> None:
        """Upload the file ``sweep.json``, which lists the sweep's settings and runs."""
        self._publish("sweep.json")

    def publish_report(self) -> None:
        """Upload the sweep's report, tables and figures."""
        self._publish(*_REPORT)

    def _publish(self, *patterns: str) -> None:
        if self.run.is_remote:
            home = self.run.folder
            files = (file for pattern in patterns for file in (home / self.run.name).glob(pattern) if file.is_file())
            self._storage.upload({file.relative_to(home).as_posix(): file for file in files})

    def _check(self) -> None:
        check_lease(self._storage, self.run.name, self.token)

    @property
    def _storage(self) -> ObjectStorage:
        return storage_at(self.run.runs)

    def _copy(self, folder: Path) -> FolderCopy:
        return FolderCopy(self._storage, folder.relative_to(self.run.folder).as_posix(), folder)


LOCAL = Mirror(RunSettings())
"""Mirror of runs in a local folder: it copies nothing."""


@contextmanager
def holding(run: RunSettings) -> Iterator[Mirror]:
    """Context manager that reserves (leases) a sweep in object storage; it yields a Mirror that copies its folders.

    Raises
    ------
    InputError
        If another process holds the lease.
    """
    if not run.is_remote:
        yield Mirror(run)
        return
    with Lease(storage_at(run.runs), run.name) as lease:
        yield Mirror(run, lease.token)


@contextmanager
def _uploads(publish: Callable[[], None], seconds: float, folder: str) -> Iterator[None]:
    """Context manager that calls ``publish`` every ``seconds`` in a thread until an error or its own end."""
    stopped = Event()

    def repeat() -> None:
        while not stopped.wait(seconds):
            try:
                publish()
            except (OSError, InputError) as error:  # the upload at the end raises it again if it lasts
                say(f"masksearch: the checkpoint in {folder} was not uploaded: {error}")
                return

    thread = Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def local_copy(path: str, *, whole: bool = False) -> Path:
    """Return a local folder for the path or URL of a sweep, of one of its runs, or of a dense network.

    Parameters
    ----------
    whole : bool
        Also bring the weights of a sweep's cells and dense networks.

    Raises
    ------
    InputError
        If the URL holds none of the three.
    """
    if "://" not in path:
        return Path(path)
    neither = InputError(f"{path} holds neither a sweep (sweep.json) nor a cell or dense network (manifest.json)")
    url, _, name = path.rstrip("/").rpartition("/")
    if "://" not in url:
        raise neither
    run = RunSettings(runs=url, name=name)
    home = run.folder / name
    if storage_at(url).copy(f"{name}/sweep.json", home / "sweep.json"):
        plan = read_plan(home)
        dense = (run.folder / "dense" / Path(network).name for network in plan.dense)
        folders = [*(home / cell for cell in plan.cells), *dense]
        Mirror(run).synchronise(folders, upload=False, whole=whole)
        return home
    url, _, above = url.rpartition("/")
    if "://" not in url:
        raise neither
    home = RunSettings(runs=url).folder / above / name
    copy = FolderCopy(storage_at(url), f"{above}/{name}", home)
    [remote] = read_manifests([copy])
    if remote is None:
        raise neither
    copy.fetch(remote)
    return home
