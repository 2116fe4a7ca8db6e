"""The audit log's figures: `python benchmarks/audit.py [--events N] [--mutations N] [--large MB] [--json FILE]`.

How fast verify.py reads on one core and how much memory it needs, what an event costs on the call path, alone and with
others at the same time, what a round's exchange of checkpoints costs a site, and how many mutated logs are detected:
alone, as a tail that was not written whole, with a witness, and with one that is some acts behind the log's end. Exit 1
when a figure misses its target.
The large log's events are written by the log itself, in large groups; a real disk takes part in what a call waits for.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
READ, WRITTEN_MS = 50_000, 1.0  # the targets: events/s on one core, and what an event costs a caller
sys.path[:0] = [str(ROOT / "tests" / "institution"), str(ROOT / "tests" / "attacks")]

VERIFY = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
import verify
from pathlib import Path
def memory():  # the most so far, in kB; ru_maxrss would count the process that started this one
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
base = memory()
began = time.process_time()
found = verify.verify(Path(sys.argv[1]))
seconds = time.process_time() - began
print(json.dumps([found, seconds, base, memory()]))
"""


def reading(folder: Path, count: int, bytes_: int = 0) -> dict[str, Any]:
    """Events per second of processor time and the memory that a log needs, by its length.

    Args:
        bytes_: go on past `count` events until the log has so many bytes.
    """
    from audit_logs import PERSON, opened

    log = opened(folder)
    ids = {"role": "scientist", "purpose": "research", "act": "train", "object": "ab" * 32, "request": "ab" * 16}
    body = {
        "actor": PERSON[0],
        **ids,
        "detail": {},
        "permit": "cd" * 8,
        "run": "my_factors-p1-ab12cd34",
        "round": 3,
        "of": None,
    }
    facts = {"sha256": "ef" * 32, "bytes": 123456, "guard": "passed", "jail_level": 2, "pid": 4711, "uid": 65534}
    body = log.texts.apart(body)
    pair = [{**body, "outcome": "intent"}, {**body, "outcome": "done", "detail": facts}]
    marks = {}
    for size, length in ((count // 10, 0), (count, bytes_)):
        while log.checkpoint()["size"] < size or sum(one.stat().st_size for one in folder.glob("*.jsonl")) < length:
            log._put(pair * 5000)  # one group, as if ten thousand had come at once
        given = [sys.executable, "-I", "-S", "-c", VERIFY, str(folder), str(ROOT / "fedrec" / "institution")]
        run = subprocess.run(given, capture_output=True, text=True, check=True)
        found, seconds, before, after = json.loads(run.stdout)
        assert found["verdict"] == "ok", found
        megabytes = sum(path.stat().st_size for path in folder.glob("*.jsonl")) / 1e6
        marks[found["events"]] = {
            "events_per_s": round(found["events"] / seconds), "megabytes": round(megabytes),
            "memory_mb": round((after - before) / 1024, 1),
        }  # fmt: skip
    began = time.process_time()
    log.close()
    again = opened(folder)
    again.close()
    return {"by_events": marks, "open_again_s": round(time.process_time() - began, 2)}


def writing(folder: Path, count: int) -> dict[str, Any]:
    """Milliseconds that a caller waits for one event of an act: alone, and with seven others; the disk's own share."""
    from audit_logs import opened

    def disk() -> float:
        handle = os.open(folder / "probe", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        times = []
        for _ in range(count):
            began = time.perf_counter()
            os.write(handle, b"x" * 600)
            os.fdatasync(handle)
            times.append(1000 * (time.perf_counter() - began))
        os.close(handle)
        return statistics.median(times)

    log = opened(folder / "log")

    def act(_: int) -> float:
        """Half of an act's time: the intent is on disk before it, the outcome after it."""
        began = time.perf_counter()
        with log.act("s", "scientist", "train", "x") as facts:
            facts["bytes"] = 1
        return 500 * (time.perf_counter() - began)

    def both(_: int) -> float:
        began = time.perf_counter()
        log.event("s", "scientist", "call", "x", outcome="done")
        return 1000 * (time.perf_counter() - began)

    processor = time.process_time()
    alone = [act(number) for number in range(count)]
    processor = 1000 * (time.process_time() - processor) / (2 * count)
    pairs = [both(number) for number in range(count)]
    with ThreadPoolExecutor(8) as pool:
        began = time.perf_counter()
        waited = list(pool.map(act, range(4 * count)))
        grouped = 1000 * (time.perf_counter() - began) / (8 * count)
    log.close()
    return {
        "event_of_an_act_ms_median": round(statistics.median(alone), 3),
        "event_of_an_act_ms_p95": round(sorted(alone)[-len(alone) // 20], 3),
        "both_events_at_once_ms_median": round(statistics.median(pairs), 3),
        "disk_alone_ms_median": round(disk(), 3), "processor_ms_per_event": round(processor, 3),
        "eight_threads_ms_per_event": round(grouped, 3),
        "eight_threads_event_waits_ms_median": round(statistics.median(waited), 3),
    }  # fmt: skip


def mutating(folder: Path, count: int) -> dict[str, Any]:
    """How many mutated logs are detected, alone and with a witness; and every byte of a thousand events."""
    from test_audit_garbage import blind
    from test_tampering import Case, mutations

    began = time.monotonic()
    found = {name: dict(sorted(kinds.items())) for name, kinds in mutations(Case(folder, 20), count).items()}
    totals = {name: sum(kinds.values()) for name, kinds in found.items() if name != "control"}
    changed, missed = every_byte(folder / "bytes")
    return {
        "logs": sum(totals.values()), **totals, "by_kind": found, "bytes_changed_one_by_one": changed,
        "bytes_missed": missed,
        "witness_behind": [blind(folder / f"behind{acts}", 100, acts) for acts in (0, 1, 10, 50)],
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def every_byte(folder: Path) -> tuple[int, int]:
    """Change every byte of a thousand events, one at a time: how many, and how many of them nothing detects."""
    from audit_logs import write

    from fedrec.institution.verify import Checker

    state, count, missed = Checker(), 0, 0
    for line in write(folder, 499).read_bytes().splitlines(keepends=True):
        for place in range(len(line)):
            other = bytearray(line)
            other[place] ^= 1 << (place % 7)
            count, missed = count + 1, missed + (state.feed(bytes(other)) == "")
        assert state.feed(line) == ""
    return count, missed


def below(report: dict[str, Any]) -> list[str]:
    """What the figures miss of the targets."""
    reads = [one["events_per_s"] for one in report["reading"]["by_events"].values()]
    costs = report.get("writing", {})
    found = [f"{one} events/s read, wanted {READ}" for one in reads if one < READ]
    found += [
        f"{name} is {costs[name]}, wanted below {WRITTEN_MS}"
        for name in ("event_of_an_act_ms_median", "eight_threads_ms_per_event")
        if costs and costs[name] >= WRITTEN_MS
    ]
    missed = (report.get("mutations") or {}).get("bytes_missed", 0)
    return found + ([f"{missed} changed bytes were not detected"] if missed else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=0, metavar="MB", help="only read a log of so many megabytes")
    parser.add_argument("--json", default="-")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = (
            {"reading": reading(Path(folder), 10_000, given.large * 10**6)}
            if given.large
            else {
                "reading": reading(Path(folder) / "long", given.events),
                "writing": writing(Path(folder), 1000),
                "mutations": mutating(Path(folder) / "mutated", given.mutations) if given.mutations else None,
                "memory_mb_of_this_process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    text = json.dumps(report, indent=1)
    print(text) if given.json == "-" else Path(given.json).write_text(text + "\n")
    for missed in (found := below(report)):
        print(missed, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
