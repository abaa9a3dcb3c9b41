"""Output streams that may be closed, broken or full while a sweep runs, and warnings of one line."""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Context manager in which printing never fails: text for a closed, broken or full output stream is dropped.

    A reader that closes a pipe, a terminal that goes away and a full disk do not end a sweep.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without the character ± must not end a sweep
    sys.stdout, sys.stderr = (cast(TextIO, _Lasting(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Context manager in which a ``UserWarning`` is printed as one line, without its place in the source code."""
    before = warnings.formatwarning

    def one_line(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        return f"masksearch: {message}\n" if category is UserWarning else before(message, category, *place, **line)

    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _open_missing() -> None:
    """Open /dev/null in place of closed standard streams, before another file gets their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if number == 0 else "w"))  # noqa: SIM115 (until the end)


class _Lasting:
    """A text stream that passes everything on to another one, until the other one fails."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._broken = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text to the output stream, or drop the text if the stream has failed; return the length of the text."""
        if not self._broken:
            try:
                self._stream.write(text)
            except (OSError, ValueError):
                self._break()
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts to the output stream; do nothing if the stream has failed before."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the output stream; do nothing if the stream has failed before."""
        if not self._broken:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._break()

    def _break(self) -> None:
        """Drop all text from now on; what the stream has buffered goes to /dev/null when Python ends."""
        self._broken = True
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
