"""A task under a crash, a full disk or a lack of file handles at each of its operations on disk, one after another.

Crash points among them: after the intent, after the reservation, with the update stored but not acknowledged, with
the outcome in the log but not in the ledger, with the answer committed but the model sent for it not yet deleted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("every_operation.py")
CODES = {"full": {"site.disk", "audit.write", "ledger.write"}, "handles": {"site.handles"}, "kill": {"killed"}}
SAME = ("last", "answer", "verdict", "used", "out", "running", "parts")


@pytest.mark.parametrize(
    ("fault", "kind", "least"),
    [
        ("kill", "train", 45),
        ("kill", "publish", 45),
        ("full", "train", 40),
        ("full", "publish", 40),
        ("handles", "train", 8),
    ],
)
def test_wherever_it_strikes_the_same_task_sent_again_gives_the_same_answer_once(fault, kind, least, tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, fault, kind, tmp_path], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole, *trials = json.loads(done.stdout)
    assert (whole["first"], whole["last"], whole["used"], whole["running"]) == ("done", "done", 1, 0)
    assert len(trials) > least
    for trial in trials:
        assert "error" not in trial, trial
        assert trial["first"] in CODES[fault] | {"done"}, trial
        assert {key: trial[key] for key in SAME} == {key: whole[key] for key in SAME}, trial
        outcomes = {outcome: times for outcome, times in trial["said"].items() if outcome not in CODES[fault]}
        assert outcomes == {"done": 1}, trial  # the log has it once, wherever the crash came
        assert fault != "kill" or trial["left"] == [], trial


@pytest.mark.parametrize("fault", ["kill", "full"])
@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [("approve", ["waiting", "none"], ["approved", "live"]), ("revoke", ["approved", "live"], ["revoked", "ended"])],
)
def test_wherever_it_strikes_a_decision_is_taken_whole_or_not_at_all(fault, kind, before, after, tmp_path):
    """An approval that was cut off leaves a permit that is void; said again, a decision holds."""
    done = subprocess.run(
        [sys.executable, SCRIPT, fault, kind, tmp_path], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]
    trials = json.loads(done.stdout)
    assert len(trials) > 8
    void = [["waiting", "ended"], ["waiting", "pending"]] if kind == "approve" else []
    for trial in trials:
        assert "error" not in trial, trial
        assert trial["between"] in [before, after, *void], trial
        assert trial["first"] != "done" or trial["between"] == after, trial
        assert (trial["decision"], trial["last"], trial["verdict"]) == (after, "done", "ok"), trial
        assert trial["out"] == [], trial
    assert {json.dumps(trial["between"]) for trial in trials} >= {json.dumps(before), json.dumps(after)}
