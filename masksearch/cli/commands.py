"""The command line: ``masksearch run``, ``show``, ``compare`` and ``analyse``.

Each command imports what it needs when it runs, so that help, version and mistakes in a command's name are fast.
"""

import io
import os
import sys
from collections.abc import Sequence

from masksearch.cli.help import COMMANDS, short_help
from masksearch.utils.errors import InputError
from masksearch.utils.registry import choose

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 2 for wrong input or a disk that fails, 130 when interrupted."""
    args = sys.argv[1:] if args is None else list(args)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without the character ± must not end a sweep
    try:
        _dispatch(args)
    except InputError as error:
        return _fail(str(error))
    except BrokenPipeError:
        # The reader has closed the pipe. Buffered output needs another destination when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return _fail(f"disk:{where} {error.strerror or error}; finished cells are kept")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues from here", file=sys.stderr)
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
        from masksearch.cli.running import run

        run(args[1:], console)
    else:
        from masksearch.cli import inspection

        {"show": inspection.show, "compare": inspection.compare, "analyse": inspection.analyse}[command](
            args[1:], console
        )


def _fail(message: str) -> int:
    print(f"masksearch: {message}", file=sys.stderr)
    return 2
