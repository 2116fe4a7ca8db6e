"""`python -m fedrec.examples.sigmoid_unit --real` that is ended while its ten sites start leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from processes import descendants, runs

pytestmark = pytest.mark.sites


def test_sigterm_ends_every_site_also_a_second_one_while_they_stop(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "fedrec.examples.sigmoid_unit", "--real"],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    while len(below := descendants(process.pid)) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    below += descendants(process.pid)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in said) == (130, False), said
    assert [pid for pid in below if runs(pid)] == []
    assert list(tmp_path.iterdir()) == []
