"""``python -m masksearch.cli``: the command line without its console script."""

import sys

from masksearch.cli.commands import main

sys.exit(main())
