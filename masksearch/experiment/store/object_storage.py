"""Objects at a URL, by fsspec: reads and writes that are repeated while the storage can't be reached."""

import errno
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from multiprocessing import parent_process
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

from masksearch.utils.errors import InputError, StorageError, first_line
from masksearch.utils.files import write_bytes
from masksearch.utils.locks import say

_T = TypeVar("_T")

# Errors that do not pass by themselves, by their class's name: those of cloud libraries need no import of them.
_CREDENTIALS = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "TokenRetrievalError", "DefaultCredentialsError", "RefreshError", "ClientAuthenticationError",
}  # fmt: skip
_WRONG = {"ParamValidationError", "NoRegionError", "InvalidRegionError"}
_LASTING = {errno.EINVAL, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}
_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_WORDS = ("quota", "storagefull", "insufficient storage", "no space")
_BUGS = (TypeError, AttributeError, LookupError, AssertionError, ImportError)


class ObjectStorage:
    """Object storage at one URL, such as ``s3://bucket/runs``; its objects have names such as ``sweep/sweep.json``.

    While the storage can't be reached, all methods try again with growing pauses, and say so once on stderr.

    Raises
    ------
    InputError
        If fsspec has no file system for the URL, or the library for it is not installed.
    StorageError
        By all methods: if the storage refuses an operation, is full, or can't be reached for ``patience`` seconds.
    """

    patience = 600.0
    """Seconds after which an operation on a storage that can't be reached fails."""
    pause = 1.0
    """Seconds before the first repetition; every further pause is twice as long, up to 30 s."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url, self._said = url.rstrip("/"), False
        self._local = url.partition("://")[0] in ("file", "local")
        own = {"auto_mkdir": True} if self._local else {}
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False, **own)
        except (ImportError, ValueError) as error:
            raise InputError(f"runs: {url}: {error}; S3 needs pip install 'masksearch[storage]'") from None

    def __truediv__(self, name: str) -> str:
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return the content of the object ``name`` in the storage; None if there is no such object."""
        return self.read_all([name]).get(name)

    def read_all(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return {name: content} for those of the named objects that exist in the storage."""
        paths = list(map(self._path, names))

        def read() -> dict[str, bytes]:
            # Unlike fsspec's cat, cat_ranges asks for no properties of objects before it reads them.
            found: list[Any] = self._fs.cat_ranges(paths, None, None, on_error="return") if paths else []
            for content in found:
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
            return {name: content for name, content in zip(names, found, strict=True) if isinstance(content, bytes)}

        return self._repeated(read)

    def write(self, name: str, content: bytes) -> None:
        """Write an object to the storage; an older object of the same name is replaced."""
        path = self._path(name)

        def write() -> None:
            if self._local:  # atomically, as object storage does
                write_bytes(path, content)
            else:
                self._fs.pipe_file(path, content)

        self._written(write)

    def create(self, name: str, content: bytes) -> None:
        """Write an object unless its name exists. Some storages overwrite nevertheless: read the object back."""
        path = self._path(name)

        def create() -> None:
            try:
                if self._local:  # fsspec's own way is not atomic for local files
                    with self._fs.open(path, "xb") as sink:
                        sink.write(content)
                else:
                    self._fs.pipe_file(path, content, mode="create")
            except OSError as error:  # EINVAL: s3fs' word for a failed condition of some servers
                if not isinstance(error, FileExistsError) and error.errno != errno.EINVAL:
                    raise

        self._written(create)

    def upload(self, files: Mapping[str, Path]) -> None:
        """Upload local files, given as {name of the object: file}."""
        if files:
            remote = list(map(self._path, files))
            self._written(lambda: self._fs.put(list(map(str, files.values())), remote))

    def download(self, files: Mapping[str, Path]) -> bool:
        """Download objects to local files, given as {name of the object: file}; return False if one is missing."""
        if not files:
            return True
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        remote = list(map(self._path, files))
        try:
            self._repeated(lambda: self._fs.get(remote, list(map(str, files.values()))))
        except FileNotFoundError:
            return False
        return True

    def copy(self, name: str, file: Path) -> bool:
        """Download the object ``name`` to a local file; return False if there is no such object."""
        content = self.read(name)
        if content is not None:
            write_bytes(file, content)
        return content is not None

    def names(self, folder: str) -> list[str]:
        """Return the sorted names of all objects in a folder of the storage and in its subfolders."""
        start = len(self._path(""))
        try:
            found: list[str] = self._repeated(lambda: self._fs.find(self._path(folder)))
        except FileNotFoundError:
            return []
        return sorted(path[start:] for path in found)

    def remove(self, names: Sequence[str]) -> None:
        """Remove the named objects from the storage; names of objects that do not exist are ignored."""
        paths = list(map(self._path, names))
        try:
            if paths:
                self._repeated(lambda: self._fs.rm(paths))
        except FileNotFoundError:
            for path in paths:
                with suppress(FileNotFoundError):
                    self._repeated(partial(self._fs.rm_file, path))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _written(self, operation: Callable[[], None]) -> None:
        try:
            self._repeated(operation)
        except FileNotFoundError as error:
            raise StorageError(
                f"storage {self.url}: {first_line(error)}; make the bucket, or name another one"
            ) from error

    def _repeated(self, operation: Callable[[], _T]) -> _T:
        """Return the result of an operation, which is repeated while the storage can't be reached."""
        until, pause = monotonic() + self.patience, self.pause
        while True:
            try:
                result = operation()
            except (FileNotFoundError, FileExistsError, *_BUGS):
                raise
            except Exception as error:
                if not self._local and getattr(error, "errno", None) in _FULL:
                    raise  # the disk of this machine, where files are brought to
                reason = first_line(error)
                if (lasting := _lasting(error)) is not None:
                    raise StorageError(f"storage {self.url}: {lasting}: {reason}; {_REMEDY}") from error
                if monotonic() >= until:
                    text = f"storage {self.url}: can't be reached for {self.patience:.0f} s: {reason}; {_REMEDY}"
                    raise StorageError(text) from error
                if not self._said and parent_process() is None:  # worker processes leave it to their driver
                    self._said = True
                    say(f"masksearch: storage {self.url} can't be reached ({reason}); trying again")
                sleep(pause)
                pause = min(2 * pause, 30.0)
            else:
                self._said = False
                return result


_REMEDY = "finished cells are kept on this machine; run the same command again to continue"


@cache
def storage_at(url: str) -> ObjectStorage:
    """Return the :class:`ObjectStorage` for a URL; a process makes only one for each URL."""
    return ObjectStorage(url)


def _lasting(error: Exception) -> str | None:
    """Return what is wrong with the storage if repeating an operation can't help; else None."""
    name, reason = type(error).__name__, str(error).lower()
    if name in _CREDENTIALS:
        return "credentials are missing or wrong"
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL or any(words in reason for words in _FULL_WORDS):
        return "is full"
    if isinstance(error, PermissionError | ValueError) or name in _WRONG or number in _LASTING:
        return "refuses the operation"
    return None
