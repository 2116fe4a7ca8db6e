"""Whoever runs the site, root or an ordinary user: each level of the jail works, holds a fork bomb, and says so."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_site import LIMITS, VECTOR, approved, make_site, own, recipe, train
from test_jail import processes_below, works

from fedrec.institution import audit, walls
from fedrec.institution.jail import Jail
from fedrec.institution.jobs import Jobs

NOBODY = 65534
# Another user, who may not look into this one's home, where Python may lie: a bind mount of its own shows him that.
AS_NOBODY = """
set -e
prefix=$1 work=$2; shift 2
mkdir -p "$work/python"
mount --bind "$prefix" "$work/python"
case "$prefix" in /root/*)
    mount -t tmpfs -o mode=755 none /root
    mkdir -p "$prefix"
    mount --move "$work/python" "$prefix";;
esac
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"""


@pytest.fixture(scope="module", params=[1, 2, 3])
def any_level(request: pytest.FixtureRequest) -> Iterator[Jail]:
    """A machine that cannot do a level fails the tests: nothing is skipped."""
    made = Jail(request.param)
    made.wait_ready()
    yield made
    made.close()


def test_the_receipt_names_level_process_and_user_as_this_machine_knows_them(any_level, tmp_path):
    """Also where own code runs as the root of its own user space: the kernel says who wrote the report."""
    site = make_site(tmp_path, f"jail_level = {any_level.level}\n")
    jobs = Jobs(site, any_level)
    assert train(site, jobs, approved(site, recipe("popularity")))["status"] == "done"
    receipt = [event for event in audit.read(site.audit.path) if event["act"] == "train"][-1]["detail"]
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    assert (receipt["jail_level"], receipt["uid"]) == (any_level.level, user)
    assert receipt["pid"] > any_level.pid
    jobs.close()
    site.close()


def sockets() -> int:
    """How many this process holds; the ledger's files come and go with its threads."""
    return sum(path.is_socket() for path in Path("/proc/self/fd").iterdir())


def test_own_code_neither_names_another_process_nor_hands_over_a_file(site, jobs, jail):
    """It sends the site a descriptor and a false name of itself along with its report."""
    code = """
        import os, socket, struct
        for fd in range(3, 64):
            try:
                line = socket.socket(fileno=os.dup(fd))
                false = (socket.SOL_SOCKET, 2, struct.pack("3i", 1, 0, 0))
                try:
                    line.sendmsg([b" "], [false])
                    raise SystemExit
                except PermissionError:
                    pass
                line.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))])
            except OSError:
                pass
    """
    before = sockets()
    assert train(site, jobs, approved(site, own(code)), VECTOR)["status"] == "done"
    receipt = [event for event in audit.read(site.audit.path) if event["act"] == "train"][-1]["detail"]
    assert receipt["uid"] == (NOBODY if os.geteuid() == 0 else os.geteuid())
    assert sockets() == before


@pytest.mark.parametrize("any_level", [2, 3], indirect=True)  # own code needs 2
def test_a_fork_bomb_leaves_the_site_serving_others(any_level, tmp_path):
    site = make_site(tmp_path, LIMITS.replace("minutes = 0.05", "minutes = 0.06"))
    jobs, before = Jobs(site, any_level), len(processes_below(any_level.pid))
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    row, found = approved(site, own(bomb)), {}
    running = threading.Thread(target=lambda: found.update(train(site, jobs, row, VECTOR)))
    running.start()
    time.sleep(0.7)
    assert 10 < len(processes_below(any_level.pid)) - before < 25  # it grows as far as it may
    works(site, jobs)  # while it runs
    running.join()
    assert found["code"] == "jail.time"
    ended = time.monotonic()
    while len(processes_below(any_level.pid)) > before and time.monotonic() - ended < 4:
        time.sleep(0.05)
    assert len(processes_below(any_level.pid)) <= before
    jobs.close()
    site.close()


def test_nothing_stays_on_disk_of_a_jail_that_was_killed(tmp_path, monkeypatch):
    """A job's empty root is mounted for the job alone, over a folder that is everywhere; none is made for it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = set(Path("/tmp").glob("fedrec*"))
    made = Jail(2)
    made.wait_ready()
    os.kill(made.pid, 9)
    made.close()
    assert set(Path("/tmp").glob("fedrec*")) - before == set()
    assert list(tmp_path.iterdir()) == []


WALLS = "receipt or fork_bomb or share_its_memory or (reaches_nothing and (key or port or environment)) or (breaks_nothing and root)"


def test_all_this_holds_when_an_ordinary_user_runs_the_site():
    """These tests again, with some of the attacks, as nobody; where the tests are not run by root, as who runs them."""
    tests = [
        str(Path(__file__).with_name(name)) for name in ("test_jail.py", "test_jail_attacks.py", "test_jail_users.py")
    ]
    command = [sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "-k", WALLS, *tests]
    with tempfile.TemporaryDirectory() as work:
        if os.geteuid() == 0:
            os.chown(work, NOBODY, NOBODY)
            inside = ["bash", "-c", AS_NOBODY, "as-nobody", str(Path(sys.base_prefix).resolve()), work, *command]
            command = ["unshare", "--mount", "--propagation", "private", *inside]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(walls.PACKAGE.parent), "HOME": work}
        run = subprocess.run(
            command, env={**environment, "TMPDIR": work, "PYTEST_ADDOPTS": f"--basetemp={work}/base -vv"}, cwd=work,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]
    assert run.stdout.count("PASSED") >= 10
