"""``python -m masksearch.cli``: the command line without its console script."""

import sys

from masksearch.cli.dispatch import main

if __name__ == "__main__":
    sys.exit(main())
