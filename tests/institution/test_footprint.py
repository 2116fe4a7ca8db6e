"""Adding up a job's processes while they come and go: a look may never be what ends a job."""

from __future__ import annotations

import os
import threading

from fedrec.institution import footprint


def _short() -> int:
    """A process that has a child for a moment, and ends."""
    pid = os.fork()
    if pid == 0:
        os.fork()
        os._exit(0)
    return pid


def test_a_job_may_end_while_its_processes_are_added_up():
    looks, seen = 0, 0
    for _ in range(60):  # without the cure some looks in a hundred raised
        pid = _short()
        waiting = threading.Thread(target=os.waitpid, args=(pid, 0))
        waiting.start()
        while waiting.is_alive():
            seen += len(footprint.below(pid)) > 0
            looks += 1
        waiting.join()
    assert looks > 60
    assert seen > 0
    assert footprint.taken(pid, 0) == 0
