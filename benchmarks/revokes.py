"""Revoke and pause at random instants of a job, of an update going out and of a model coming in: `revokes.py [TIMES]`.

The suite does 8 of each (tests/institution/test_revoke_instants.py); this does 50 and prints what was found as JSON.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "institution"))

if __name__ == "__main__":
    from test_revoke_instants import HOWS, ON_ITS_WAY, SIZE, in_compute, inwards, outwards, served

    from fedrec.institution.jail import Jail

    times, draw, jail = int(sys.argv[1]) if len(sys.argv) > 1 else 50, random.Random(7), Jail(2)
    jail.wait_ready()
    found: dict[str, object] = {"times": times, "bytes_allowed_after": ON_ITS_WAY, "bytes": SIZE}
    with tempfile.TemporaryDirectory() as folder, served(Path(folder), jail) as place:
        for how in HOWS:
            seconds = [in_compute(place, jail, how, draw.uniform(0, 0.7)) for _ in range(times)]
            out = [outwards(place, how, draw.randrange(SIZE // 2)) for _ in range(times)]
            told = [inwards(place, how, draw.randrange(SIZE)) for _ in range(times)]
            found[how] = {
                "slowest_end_of_a_job_s": round(max(seconds), 3),
                "most_bytes_after": max(after for _, after in out),
                "whole_updates": sum(got >= SIZE for got, _ in out),
                "models_kept": told.count("kept"),
            }
    jail.close()
    print(json.dumps(found))
