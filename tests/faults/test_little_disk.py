"""A real full disk and a real read-only one: a tmpfs of 4 MB in a mount namespace of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("little_disk.py")


def test_a_full_disk_is_a_refusal_until_there_is_room_and_on_a_read_only_one_no_site_starts(tmp_path):
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    shell = f'mount -t tmpfs -o size=4m none "{tmp_path}" && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", *user, "sh", "-c", shell, "sh", sys.executable, str(SCRIPT), str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["filled"] == "No space left on device"
    assert set(found["full"]) <= {"audit.write", "ledger.write", "site.disk"}
    assert found["read-only"].startswith("state: the site cannot write there (Read-only file system)")
    assert found["well"] == ["done", "done", "done"]
    assert found["used"] == {"train": 1}
    assert found["verdict"] == "ok"
