"""Copies of a run's folder in a storage: new objects for changed files, then a manifest that names them all."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from masksearch.experiment.store.object_storage import ObjectStorage
from masksearch.experiment.store.run_folder import is_done
from masksearch.utils.errors import InputError
from masksearch.utils.files import is_folder_name, write_json
from masksearch.utils.integrity import seal_json, unseal_json

_MANIFEST, _RECORD = "manifest.json", ".copy.json"
_APPENDED = (
    "history.jsonl",
    "moves.i32",
    "log.txt",
    "events.out.tfevents.*",
)  # they grow: a copy has their first bytes
_ATTEMPTS = 10  # at a moment between two changes of a folder

_T = TypeVar("_T")


@dataclass(frozen=True)
class Entry:
    """Size in bytes and SHA-256 digest of one file of a run's folder."""

    size: int  # bytes
    sha256: str  # hex digits

    @classmethod
    def of(cls, file: Path) -> "Entry":
        """Return the size in bytes and the SHA-256 digest of a file."""
        with file.open("rb") as source:
            return cls(file.stat().st_size, hashlib.file_digest(source, "sha256").hexdigest())


@dataclass(frozen=True)
class Manifest:
    """List of the files that a run's folder has at one moment, with a note whether the run is finished."""

    done: bool = False
    files: dict[str, Entry] = field(default_factory=dict)  # by name in the folder, as round1/mask.safetensors

    def __post_init__(self) -> None:
        if any(not is_folder_name(part) for name in self.files for part in name.split("/")):
            raise ValueError("a file outside of the folder")

    def objects(self) -> dict[str, str]:
        """Return {name of a file: name of its object in the storage, which contains digits of the file's hash}."""
        return {name: _object(name, entry) for name, entry in self.files.items()}


@dataclass(frozen=True)
class _Record:
    """State of the last copy from or to the storage, kept in the folder itself."""

    manifest: Manifest | None = None
    stats: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # of the local files then

    def entry(self, name: str, file: Path) -> Entry | None:
        """Return size and digest of a local file as of the last copy; None if the file has changed since then."""
        known = self.manifest is not None and file.exists() and self.stats.get(name) == _stat(file)
        return self.manifest.files.get(name) if known and self.manifest else None


@dataclass(frozen=True)
class FolderCopy:
    """Folder of a run on this machine, with its copy in object storage. The caller must hold the folder's lock.

    Parameters
    ----------
    name : str
        Name of the folder in the storage, such as ``sweep/CELL``.
    """

    storage: ObjectStorage
    name: str
    path: Path

    def is_known(self, *, whole: bool = False) -> bool:
        """Return whether the run is finished here and in the storage and, if ``whole``, all its files are here."""
        manifest = self._record().manifest
        if manifest is None or not manifest.done or not is_done(self.path):
            return False
        return not whole or all((self.path / name).exists() for name in manifest.files)

    def has_changed(self) -> bool:
        """Return whether a file of the folder has changed since the folder was last copied."""
        record = self._record()
        return record.manifest is None or record.stats != {
            name: _stat(file) for name, file in _files(self.path).items()
        }

    def fetch(self, remote: Manifest | None, *, light: bool = False) -> None:
        """Download the files that a manifest (list of files) in the storage names, unless they were copied before.

        ``light`` leaves out the weights of finished runs; a later call brings them. If an object of an unfinished run
        is missing, the folder stays as it is.

        Raises
        ------
        InputError
            If an object is missing or has another size or digest than in the manifest.
        """
        record = self._record()
        changed = record.manifest != remote
        if remote is None or not (changed or remote.done):
            return  # this folder is the newest
        wanted = {
            name: entry
            for name, entry in remote.files.items()
            if (record.entry(name, self.path / name) != entry if changed else not (self.path / name).exists())
            and not (light and remote.done and _is_weights(name))
        }
        if not wanted and not changed:
            return
        with _transfer_folder(self.path) as transfer:
            objects = {f"{self.name}/{_object(name, entry)}": transfer / name for name, entry in wanted.items()}
            if not self.storage.download(objects):
                if remote.done:
                    raise InputError(f"{self.storage / self.name}: an object of {_MANIFEST} is missing; {self._remedy}")
                return
            for name, entry in wanted.items():
                if Entry.of(transfer / name) != entry:
                    raise InputError(f"{self.storage / self.name}: {name} is damaged; {self._remedy}")
            for name, file in _files(self.path).items() if changed else ():
                if name not in remote.files or record.entry(name, file) != remote.files[name]:
                    file.unlink(missing_ok=True)
            for name in sorted(wanted, key="status.json".__eq__):  # the status last
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                (transfer / name).replace(self.path / name)
        fetched = {name: _stat(self.path / name) for name in wanted}
        self._save(remote, {name: stat for name, stat in record.stats.items() if name in remote.files} | fetched)

    def fetch_file(self, remote: Manifest, name: str) -> None:
        """Download the file ``name``, if the manifest ``remote`` lists it; all other local files stay as they are."""
        if name in remote.files:
            self.storage.copy(f"{self.name}/{remote.objects()[name]}", self.path / name)

    def publish(self, check: Callable[[], None]) -> None:
        """Upload the folder's changed files as new objects, and then a manifest that lists all of its files.

        Nothing is uploaded if nothing has changed since the last copy, or while files change all the time. Objects of
        the last copy that the new manifest does not name are removed.

        Parameters
        ----------
        check : callable
            Called before the first upload; raises an exception if this process may not write.
        """
        record = self._record()
        with _transfer_folder(self.path) as transfer:
            if not _snapshot(self.path, transfer):
                return
            files = {name: record.entry(name, file) or Entry.of(file) for name, file in _files(transfer).items()}
            if record.manifest is not None and record.manifest.done:
                files = record.manifest.files | files  # weights that were not fetched
            manifest = Manifest(is_done(transfer), files)
            if manifest == record.manifest:
                return
            check()
            objects = manifest.objects()
            before = record.manifest.objects() if record.manifest else {}
            new = [name for name, target in objects.items() if before.get(name) != target]
            self.storage.upload({f"{self.name}/{objects[name]}": transfer / name for name in new})
            self.storage.write(f"{self.name}/{_MANIFEST}", seal_json(asdict(manifest)))
            stats = {name: _stat(file) for name, file in _files(transfer).items()}
        self._save(manifest, stats)
        self.storage.remove([f"{self.name}/{old}" for old in set(before.values()) - set(objects.values())])

    @property
    def _remedy(self) -> str:
        return f"remove the folder {self.storage / self.name} and run again"

    def _record(self) -> _Record:
        return _parsed(_read(self.path / _RECORD), _Record) or _Record()

    def _save(self, manifest: Manifest, stats: Mapping[str, tuple[int, int, int]]) -> None:
        write_json(self.path / _RECORD, asdict(_Record(manifest, dict(stats))))


def read_manifests(copies: Sequence[FolderCopy]) -> list[Manifest | None]:
    """Return the manifest (list of files) of each folder in the storage; None for a missing or damaged manifest."""
    if not copies:
        return []
    names = [f"{copy.name}/{_MANIFEST}" for copy in copies]
    found = copies[0].storage.read_all(names)
    return [_parsed(found.get(name), Manifest) for name in names]


def _parsed(content: bytes | None, kind: type[_T]) -> _T | None:
    if content is None:
        return None
    try:
        return msgspec.convert(unseal_json(content, "manifest"), kind)
    except (InputError, msgspec.ValidationError):
        return None


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _object(name: str, entry: Entry) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}.{entry.sha256[:16]}{path.suffix}"))


def _is_weights(name: str) -> bool:
    """Whether neither tables nor most figures need a file."""
    weights = name.endswith(".safetensors") and PurePosixPath(name).name != "mask.safetensors"
    return weights or name.startswith("pruned/")


def _stat(file: Path) -> tuple[int, int, int]:
    stat = file.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _files(folder: Path) -> dict[str, Path]:
    """Return {name: path} of a folder's files, without locks, unfinished files and hidden ones."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and path.suffix != ".lock" and not any(part.startswith(".") for part in relative.parts):
            found[relative.as_posix()] = path
    return found


def _snapshot(folder: Path, target: Path) -> bool:
    """Link a folder's files into ``target`` as they are at one moment; return False if they change all the time.

    Most files change by a replacement, so that links keep their content. Files that grow are copied.
    """
    for _ in range(_ATTEMPTS):
        with suppress(FileNotFoundError):  # a file was removed meanwhile
            before = _fixed(folder)
            for name, file in _files(folder).items():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                _link(file, target / name)
            if _fixed(folder) == before:
                return True
        shutil.rmtree(target)
        target.mkdir()
    return False


def _link(file: Path, target: Path) -> None:
    if not _grows(file.name):
        with suppress(OSError):  # of file systems without links
            os.link(file, target)
            return
    shutil.copyfile(file, target)


def _grows(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _APPENDED)


def _fixed(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {name: _stat(file) for name, file in _files(folder).items() if not _grows(file.name)}


@contextmanager
def _transfer_folder(path: Path) -> Iterator[Path]:
    """Return an empty folder that no run reads, on the disk of a run's folder; it is removed at the end."""
    folder = path.parents[1] / ".transfer" / path.parent.name / path.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
