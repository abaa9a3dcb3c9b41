"""``python -m tests.faults``: the campaign of faults. ``--all`` makes every trial; without it, a quick selection."""

import argparse
import contextlib
import fnmatch
import gc
import json
import math
import sys
import time
from pathlib import Path

from tests.faults import runs
from tests.faults.campaign import REFERENCE, OutOfTimeError, Report, disk_parts
from tests.faults.damage import damage_parts
from tests.faults.fuzz import fuzz_parts
from tests.faults.workers import worker_parts

QUICK = 0.006
"""Share of the trials that the suite makes."""


def main() -> int:
    """Make the trials, print the table of counts and what broke; return 1 if anything broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--all", action="store_true", help="every trial: hours")
    parser.add_argument("--share", type=float, default=None, help=f"share of the trials; {QUICK} if not given")
    parser.add_argument(
        "--parts", nargs="*", default=[], help="patterns of parts' names; if not given, all but workers"
    )
    parser.add_argument("--seconds", type=float, default=math.inf, help="longest time of a part")
    parser.add_argument("--json", help="file to write counts and broken trials to")
    asked = parser.parse_args()
    share = 1.0 if asked.all else QUICK if asked.share is None else asked.share
    runs.prepare()
    gc.freeze()
    reports = []
    usual = [*disk_parts(), *damage_parts(), *fuzz_parts()]
    patterns = asked.parts or ["*"]
    for name, part in [*usual, *worker_parts()] if asked.parts or asked.all else usual:
        if any(fnmatch.fnmatch(name, pattern) or name.startswith(f"{pattern}:") for pattern in patterns):
            begun = time.monotonic()
            report = Report(name, begun + asked.seconds)
            with contextlib.suppress(OutOfTimeError):
                part(report, share)
            reports.append(report)
            seconds = time.monotonic() - begun
            print(f"{name}: {dict(report.counts)}, {seconds:.0f} s", file=sys.stderr, flush=True)
            if asked.json:
                rows = [{"part": one.name, "counts": one.counts, "broken": one.broken} for one in reports]
                Path(asked.json).write_text(json.dumps(rows, indent=1))
    REFERENCE.close()
    print("| part | tried | right | refused in one sentence | not read | broke |")
    print("|---|---:|---:|---:|---:|---:|")
    for one in reports:
        figures = (one.tried, one.counts["right"], one.counts["refused"], one.counts["unread"], len(one.broken))
        print("| " + " | ".join(map(str, (one.name, *figures))) + " |")
    broken = [text for one in reports for text in one.broken]
    print("\n\n".join(broken), file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
