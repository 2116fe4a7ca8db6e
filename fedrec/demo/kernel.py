"""Starts a notebook's kernel in one role: `python -m fedrec.demo.kernel ROLE.json -f CONNECTION_FILE`.

The kernel gets the variables of that role's file and nobody else's. They stand in no kernelspec and on no command
line, since a Jupyter server shows the one to every browser and the other to every process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path


def environment(role: Path, outer: Mapping[str, str]) -> dict[str, str]:
    """What the kernel sees: `outer` without Jupyter's token and other people's FEDREC_ variables, and the role's own.

    Args:
        role: a JSON file of FEDREC_ variables, which only its owner can read.
    """
    kept = {
        name: value
        for name, value in outer.items()
        if name == "FEDREC_CACHE" or not name.startswith(("FEDREC_", "JUPYTER_TOKEN"))
    }
    own: dict[str, str] = json.loads(role.read_text())
    commands = str(Path(sys.executable).parent)  # so that `!fedrec ...` in a cell is this installation's
    return {**kept, **own, "PATH": os.pathsep.join([commands, outer.get("PATH", os.defpath)])}


if __name__ == "__main__":
    command = [sys.executable, "-m", "ipykernel_launcher", *sys.argv[2:]]
    os.execve(sys.executable, command, environment(Path(sys.argv[1]), os.environ))
