"""The scientist's program is killed at each of its operations on disk: the run ends in the same model all the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("driver_operations.py")


def test_wherever_the_driver_is_killed_the_resumed_run_ends_in_the_same_files(tmp_path):
    """Stopping by validation, so the lines of the rounds matter as well as the checkpoints."""
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    whole, *trials = json.loads(done.stdout)
    assert (whole["killed"], [number for number, _, _ in whole["rounds"]]) == (0, [0, 1, 2])
    assert whole["model"] == whole["file"]
    assert len(trials) > 60
    assert {trial["killed"] for trial in trials} == {0, 1, 2}
    for trial in trials:
        assert {key: trial.get(key) for key in ("model", "rounds", "file")} == {
            key: whole[key] for key in ("model", "rounds", "file")
        }, trial
