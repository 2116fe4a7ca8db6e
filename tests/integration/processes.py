"""What the processes of a site hold, read from /proc."""

from __future__ import annotations

import os
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """The process ids below one."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    left = [pid]
    while left:
        more = children.get(left.pop(), [])
        found += more
        left += more
    return found


def runs(pid: int) -> bool:
    """Whether a process exists and has not ended; one that waits for its parent has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def links(pid: int) -> set[str]:
    """What its open descriptors point to."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    return found


def files(pid: int) -> set[str]:
    """Its open files, without devices and folders (pycapnp opens / and the working folder)."""
    return {
        link for link in links(pid)
        if link.startswith("/") and not link.startswith(("/dev/", "/proc/")) and not Path(link).is_dir()
    }  # fmt: skip


def listening(pids: list[int]) -> set[tuple[str, str, int]]:
    """(table, address in the kernel's hex, port) of every socket of these processes that waits for others."""
    inodes = {link[8:-1] for pid in pids for link in links(pid) if link.startswith("socket:[")}
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes and (fields[3] == "0A" or table.startswith("udp")):
                address, port = fields[1].split(":")
                found.add((table, address, int(port, 16)))
    return found
