"""The command line of masksearch."""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 2 for wrong input or a disk that fails, 130 when interrupted."""
    try:  # an interrupt of the imports ends quietly, too
        from masksearch.cli import dispatch

        return dispatch.main(args)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("\ninterrupted; the same command continues from here", file=sys.stderr)
        return 130
