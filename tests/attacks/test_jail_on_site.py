"""The scientist's own code attacks the institution from inside the jail of a running site."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import real_sites
from real_sites import approve_one, fresh, own_route, run_task

import fedrec
from fedrec.exchange.wire import decode

pytestmark = pytest.mark.sites

SPY = """
class Spy:
    def __init__(self, pid=0, port=0, folder="", other=0):
        self.pid, self.port, self.folder, self.other = pid, port, folder, other

    def init(self, n_items, seed):
        return {"v": np.zeros(n_items)}

    def environment(self):
        with open(f"/proc/{self.pid}/environ", "rb") as file:
            return file.read(1)

    def parent(self):
        import os
        with open(f"/proc/{os.getppid()}/status", "rb") as file:
            return file.read(1)

    def knock(self):
        import socket
        socket.socket().connect(("127.0.0.1", self.port))

    def another_site(self):
        import socket
        socket.socket().connect(("127.0.0.1", self.other))

    def plant(self):
        with open(self.folder + "/state/planted", "w") as file:
            file.write("x")

    def key(self):
        with open(self.folder + "/state/keys/site.key") as file:
            return file.read(1)

    def rows_file(self):
        with open(self.folder + "/data/ratings.csv") as file:
            return file.read(1)

    def signal(self):
        import os
        os.kill(self.pid, 0)

    def fit_site(self, rows, shared, private):
        import os, socket
        v = np.zeros(rows.n_items)
        attacks = (
            self.environment, self.parent, self.knock, self.another_site, self.plant, self.key, self.rows_file, self.signal,
        )
        for number, attack in enumerate(attacks):
            try:
                attack()
                v[number] = 1
            except OSError:
                v[number] = 0
        v[len(attacks)] = 7  # it got to its end, and os and socket could be imported
        return {"v": v}, {}

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))
"""


@pytest.mark.parametrize("defence", [True, False])
def test_own_code_cannot_read_the_environment_open_ports_or_touch_the_sites_folder(defence, strong, sites, ml100k):
    site, other = strong.site, sites.all["borealis"]
    aims = {
        "pid": site.facts["pid"], "port": int(site.url.rpartition(":")[2]), "other": int(other.url.rpartition(":")[2]),
        "folder": str(site.folder),
    }  # fmt: skip
    plan = fresh(code=SPY, settings=aims, name="spy", rounds=1, aggregator=fedrec.aggregation.Mean())
    planted = site.folder / "state" / "planted"
    if defence:
        approved = approve_one(strong.ada, strong.owner, plan, strong.n_items)
        answer = run_task(strong.ada, approved)
        assert answer["status"] == "done", answer
        data = own_route(strong.ada, "GET", f"/fedrec/v1/blobs/{answer['passport']['sha256']}", permit=approved.id)[1]
        found = decode(data)["v"]
    else:  # the control: without a jail, as its owner would run it by hand, every attack succeeds
        found = fedrec.simulate({"aurora": real_sites.frames(sites)["aurora"]}).train(plan).shared["v"]
    np.testing.assert_array_equal(found[:9], [0 if defence else 1] * 8 + [7])
    assert planted.exists() is not defence
    planted.unlink(missing_ok=True)
    again = approve_one(strong.ada, strong.owner, fresh(), strong.n_items)
    assert run_task(strong.ada, again)["status"] == "done"  # and the site goes on


EVIL = {
    "os._exit(0)": "jail.error",
    "os.kill(os.getppid(), 9)": None,
    "np.zeros(3 * 10**10)": "jail.memory",
    "raise ValueError(str(rows.user[:5]) + 'leak-5519')": "jail.error",
    "raise type('leak-5519', (Exception,), {})()": "jail.error",
    "print('leak-5519', rows.item[:3])": None,
    "return {'v': np.full(rows.n_items, np.nan)}, {}": "guard.finite",
    "return {'v': np.zeros(rows.n_items - 1)}, {}": "guard.shape",
    "return {'v': np.zeros(rows.n_items), 'leak-5519': rows.user}, {}": "guard.name",
}


def evil(line):
    return (
        "class Evil:\n    def init(self, n_items, seed):\n        return {'v': np.zeros(n_items)}\n\n"
        f"    def fit_site(self, rows, shared, private):\n        import os\n        {line}\n"
        "        return {'v': np.zeros(rows.n_items)}, {}\n\n"
        "    def score(self, rows, shared, private):\n        return np.zeros((rows.n_users, rows.n_items))\n"
    )


WITHOUT_JAIL = """
import sys
import pandas as pd
import fedrec
rows = pd.DataFrame({"user": [0, 0, 1, 1], "item": [0, 1, 0, 1], "rating": 1.0, "timestamp": range(4)})
fedrec.simulate({"one": rows}).train(fedrec.Plan(code=sys.argv[1], name="evil", rounds=1))
print("it went on")
"""


@pytest.mark.parametrize("line", ["os._exit(0)", *(line for line in EVIL if line.startswith(("raise", "print")))])
def test_control_without_the_jail_the_same_line_ends_the_process_or_speaks_of_the_data(line):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAIL, evil(line)], capture_output=True, text=True, timeout=60, check=False
    )
    seen = done.stdout + done.stderr
    assert ("it went on" in done.stdout) is line.startswith("print")
    assert ("leak-5519" in seen) is ("leak" in line)


@pytest.mark.parametrize("line", [line for line, code in EVIL.items() if (code or "").startswith("guard.")])
def test_control_without_the_guard_the_same_update_leaves(line, arena):
    here = arena(False, "guard")
    approved = approve_one(here.ada, here.owner, fresh(code=evil(line), name="evil", rounds=1), here.n_items)
    answer = run_task(here.ada, approved)
    assert answer["status"] == "done", answer
    data = own_route(here.ada, "GET", f"/fedrec/v1/blobs/{answer['passport']['sha256']}", permit=approved.id)[1]
    left = decode(data)
    assert np.isnan(left["v"]).any() or len(left["v"]) < here.n_items or "leak-5519" in left


@pytest.mark.parametrize("line", EVIL)
def test_own_code_that_misbehaves_ends_its_own_job_only_and_says_nothing_of_the_data(line, strong):
    """The controls are above; that of memory is tests/institution/test_jail_attacks.py, and a killed parent is the test's own."""
    approved = approve_one(strong.ada, strong.owner, fresh(code=evil(line), name="evil", rounds=1), strong.n_items)
    began = time.monotonic()
    answer = run_task(strong.ada, approved)
    assert time.monotonic() - began < 20
    expected = EVIL[line]
    if expected is not None:
        assert (answer["status"], answer["code"]) == ("refused", expected), answer
    assert "leak-5519" not in json.dumps(answer)
    assert os.path.exists(f"/proc/{strong.site.facts['pid']}")
    status, _ = real_sites.http_call(strong.url, "GET", "/api/v2/metadata")
    assert status == 200
