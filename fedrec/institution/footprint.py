"""How much memory a job's processes take together: RLIMIT_AS bounds each of them, and each may fork. Linux only."""

from __future__ import annotations

import contextlib
from pathlib import Path

_PROC = Path("/proc")


def taken(first: int, usual: int) -> int:
    """Bytes that the processes below `first` take together beyond the warm parent's; what they share counts once.

    Where the kernel does not tell this user the shares, each counts with what it has more than the warm parent.

    Args:
        first: the job's supervisor, which takes nothing of its own.
        usual: how many processes below it a job has that forks none; such a job is bound by its rlimit: 0.
    """
    pids = below(first)
    if len(pids) <= usual:
        return 0
    warm = _sizes(first, "status").get("RssAnon", 0)
    shares = [_sizes(pid, "smaps_rollup") for pid in pids]
    if any(shares):
        return max(0, sum(one.get("Pss_Anon", 0) + one.get("Pss_Shmem", 0) for one in shares) - warm)
    alone = [_sizes(pid, "status") for pid in pids]
    return sum(max(0, one.get("RssAnon", 0) - warm) + one.get("RssShmem", 0) for one in alone)


def below(pid: int) -> list[int]:
    """All descendants of a process, in whatever process namespace they are."""
    found, rest = [], [pid]
    while rest:
        rest += (children := _children(rest.pop()))
        found += children
    return found


def _children(pid: int) -> list[int]:
    """The children of a process's threads; process and threads may end while we look."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for thread in [*(_PROC / str(pid) / "task").iterdir()]:
            with contextlib.suppress(OSError):
                children += [int(child) for child in (thread / "children").read_text().split()]
    return children


def _sizes(pid: int, file: str) -> dict[str, int]:
    """Bytes by name, from lines such as `RssAnon:   12 kB`; empty when the process has ended or may not be read."""
    try:
        lines = (_PROC / str(pid) / file).read_text().splitlines()
    except OSError:
        return {}
    words = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): 1024 * int(size) for name, size, _ in words}
