"""How much memory a process has needed, read from the kernel."""

from __future__ import annotations

import os
from pathlib import Path


def peak_mb(pid: int) -> float:
    """The most memory that a process has had since `forget_peak`; MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    raise AssertionError("no VmHWM")


def forget_peak(pid: int) -> None:
    """Let the kernel count a process's most memory anew."""
    with open(os.path.join("/proc", str(pid), "clear_refs"), "w") as file:
        file.write("5")
