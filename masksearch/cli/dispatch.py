"""The command line: ``masksearch run``, ``show``, ``compare`` and ``analyse``.

Each command imports what it needs when it runs, so that help, version and mistakes in a command's name are fast.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from masksearch.cli.help import COMMANDS, short_help
from masksearch.cli.streams import lasting_streams, one_line_warnings
from masksearch.utils.errors import InputError, StorageError, first_line
from masksearch.utils.registry import choose


class _EndedError(KeyboardInterrupt):
    """SIGTERM, the signal by which schedulers of clusters end a job. A sweep treats it as an interrupt."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for wrong input or a failing disk, 130 or 143 if interrupted."""
    args = sys.argv[1:] if args is None else list(args)
    with lasting_streams(), one_line_warnings():
        return _main(args)


def _main(args: Sequence[str]) -> int:
    try:
        _dispatch(args)
    except InputError as error:
        return _fail(str(error))
    except StorageError as error:
        return _fail(str(error))
    except OSError as error:
        where = f" {os.fsdecode(error.filename)}:" if isinstance(error.filename, str | bytes) else ""
        return _fail(
            f"disk:{where} {error.strerror or error}; repair the disk or free some space, and run the same command "
            "again; finished cells are kept"
        )
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search("not enough memory|out of memory", str(error)):
            raise
        return _fail(f"memory: {first_line(error)}; give smaller sizes, and run again; finished cells are kept")
    except _EndedError:
        print("\nended by SIGTERM; run the same command again to continue", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except SystemExit as ended:  # of tyro, after the help of a command
        return int(ended.code or 0)
    return 0


def _dispatch(args: Sequence[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(COMMANDS, end="")
        return
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"masksearch {version('masksearch')}")
        return
    if args[0] == "--list":
        args = ["run", *args]
    command = choose("command", args[0], ["run", "show", "compare", "analyse"])
    if command == "run" and {"-h", "--help"} & set(args):
        print(short_help(), end="")
        return
    from rich.console import Console

    # As wide as the terminal; 150 columns for a log or a pipe, so that rows are not broken.
    console = Console() if sys.stdout.isatty() else Console(width=150)
    if command == "run":
        from masksearch.cli.run_command import run

        with _signals_of_sweeps():
            run(args[1:], console)
    else:
        from masksearch.cli import result_commands

        {"show": result_commands.show, "compare": result_commands.compare, "analyse": result_commands.analyse}[command](
            args[1:], console
        )


@contextmanager
def _signals_of_sweeps() -> Iterator[None]:
    """Context manager in which SIGTERM ends a sweep as Ctrl-C does, and SIGHUP, of a closed terminal, does nothing.

    Handlers of the caller stay as they are. So does SIGTERM in processes of torchrun, which ends them by this signal.
    """
    handlers: dict[str, Any] = {"SIGHUP": signal.SIG_IGN} | ({} if "RANK" in os.environ else {"SIGTERM": _end})
    numbers = {getattr(signal, name): handler for name, handler in handlers.items() if hasattr(signal, name)}
    in_main_thread = threading.current_thread() is threading.main_thread()
    numbers = {key: handler for key, handler in numbers.items() if in_main_thread and _has_default(key)}
    for number, handler in numbers.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _has_default(number: int) -> bool:
    return signal.getsignal(number) is signal.SIG_DFL


def _end(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second SIGTERM ends the process at once
    raise _EndedError


def _fail(message: str) -> int:
    """Print the one line of an error, without control characters that a name in it may have; return exit code 2."""
    plain = "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in message)
    print(f"masksearch: {plain.encode('utf-8', 'backslashreplace').decode()}", file=sys.stderr)
    return 2
