"""More of what own code may try, each with a control where it works; and what no jail can see."""

from __future__ import annotations

import threading
import time

import holes
import numpy as np
import pytest
from small_site import LIMITS, SCIENTIST, VECTOR, approved, make_site, own, train
from test_jail import processes_below, works

from fedrec.errors import Refused
from fedrec.exchange.wire import decode
from fedrec.institution import endpoint
from fedrec.institution.decisions import Decisions
from fedrec.institution.jail import Jail
from fedrec.institution.jobs import Jobs

BOTH = pytest.mark.parametrize("defence", [True, False])

# Each block runs through when it gets what it wants. The control is a jail without walls, limits and another user.
WANTS = {
    "forty processes": (
        "import os, time\nfor _ in range(40):\n    if not os.fork():\n        time.sleep(3)\n        os._exit(0)"
    ),
    "100 GB": "import mmap\nmmap.mmap(-1, 10**11, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)",  # unreserved
    "an output of 2 GB": (
        "import os, fcntl\nfor fd in range(3, 64):\n    try:\n        if fcntl.fcntl(fd, 3) & 3:\n"
        "            os.truncate(fd, 2 * 10**9)\n            break\n    except OSError:\n        pass\n"
        "else:\n    raise OSError"
    ),
    "a device": "import os, stat\nos.mknod('{state}/../new-file', stat.S_IFREG | 0o600)",
    "root": "import os\nos.setuid(0)",
    "another root folder": "import os\nos.chroot('/')",
    "to trace its parent": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nassert any(libc.ptrace(16, pid, 0, 0) == 0 for pid in (1, 2))"
    ),
    "what others were started with": "open('/proc/{warm}/environ', 'rb').read()",
}


@pytest.fixture(scope="module")
def bare():
    """A jail that forks a job and does nothing else; only its namespaces stay, so that this machine is safe."""
    made = holes.weak_jail("nothing")
    made.wait_ready()
    yield made
    made.close()


@BOTH
@pytest.mark.parametrize("wants", WANTS)
def test_own_code_does_not_get(wants, defence, site, jail, bare):
    here = jail if defence else bare
    jobs, code = Jobs(site, here), WANTS[wants].replace("{state}", str(site.state)).replace("{warm}", str(here.pid))
    answer = train(site, jobs, approved(site, own(code)), VECTOR)
    assert (answer.get("code") in ("jail.error", "jail.memory")) is defence, answer
    assert (site.folder / "new-file").exists() is (wants == "a device" and not defence)
    works(site, jobs)
    jobs.close()


@BOTH
def test_a_job_cannot_end_another_one(defence, site, jail, tmp_path):
    """At level 1 both have the same user and see each other; at level 2 the number means nothing there."""
    here = jail if defence else Jail(1)
    here.wait_ready() if not defence else None
    jobs, found = Jobs(site, here), {}
    slow = approved(site, own("import time\ntime.sleep(2)"))
    other = threading.Thread(target=lambda: found.update(train(site, jobs, slow, VECTOR)))
    other.start()
    time.sleep(0.9)
    victim = processes_below(here.pid)[-1]
    attacker = approved(site, own(f"import os\nos.kill({victim}, 9)"))
    train(site, jobs, attacker, VECTOR)
    other.join()
    assert (found["status"] == "done") is defence, found
    jobs.close()
    if not defence:
        here.close()


def test_a_fork_bomb_leaves_the_site_serving_others(tmp_path, jail):
    site = make_site(tmp_path, LIMITS.replace("minutes = 0.05", "minutes = 0.03"))
    jobs = Jobs(site, jail)
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
    row, found = approved(site, own(bomb)), {}
    running = threading.Thread(target=lambda: found.update(train(site, jobs, row, VECTOR)))
    running.start()
    time.sleep(0.7)
    assert len(processes_below(jail.pid)) < 25
    works(site, jobs)  # while it runs
    running.join()
    assert found["code"] == "jail.time"
    ended = time.monotonic()
    while processes_below(jail.pid) and time.monotonic() - ended < 4:
        time.sleep(0.05)
    assert processes_below(jail.pid) == []
    jobs.close()
    site.close()


LEAK = "return {'v': rows.item[:8].astype(np.float64)}, {}"


def test_known_limit_rows_written_into_the_numbers_of_a_declared_tensor_leave(site, jobs):
    """No jail can see this: where own code is on, the owner's reading is the defence (docs/security.md)."""
    row = approved(site, own(LEAK))
    answer = train(site, jobs, row, VECTOR)
    assert answer["status"] == "done"
    got = decode(site.blobs.path("out", row.id, answer["passport"]["sha256"]).read_bytes())["v"]
    raw = site.store.rows().item
    assert set(got.astype(int)) <= set(raw)
    assert np.array_equal(got[:3], raw[:3])  # the first user's first three films


def test_so_own_code_is_off_unless_the_owner_says_otherwise(tmp_path, jail):
    site = make_site(tmp_path, "")
    jobs = Jobs(site, jail)
    plan = own(LEAK)
    with pytest.raises(Refused, match=r"plan\.own_code"):
        Decisions(site, jobs).check_submission(SCIENTIST, plan.text(), plan)
    with pytest.raises(Refused, match=r"plan\.own_code"):
        approved(site, plan)
    jobs.close()
    site.close()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise KeyError('canary')", "jail.error: the job ended with KeyError in line 7 of the submitted code"),
        ("np.ones(20 * 10**9 // 8)", "jail.memory: the job ran out of memory in line 7 of the submitted code"),
        ("import os\nos._exit(1)", "jail.error: the job ended with Killed"),
    ],
)
@pytest.mark.parametrize("tell", [True, False])
def test_the_owner_says_whether_an_exceptions_class_and_line_are_told(code, told, tell, tmp_path, jail):
    site = make_site(tmp_path, f"{LIMITS}tell_errors = {str(tell).lower()}\n")
    jobs = Jobs(site, jail)
    answer = train(site, jobs, approved(site, own(code)), VECTOR)
    said = f"{answer['code']}: {answer['reason']}"
    assert said == (told if tell else "jail.error: the job ended with an exception")
    jobs.close()
    site.close()


def test_a_type_error_inside_the_endpoint_leaks_nothing():
    """PySyft passes a TypeError's text on; the control is the handler itself."""

    def broken(*_):
        raise TypeError("canary-1 liked film-3")

    with pytest.raises(TypeError, match="canary"):
        broken()
    endpoint.serve(broken)
    try:
        answer = endpoint.call("key", "plan", {})
    finally:
        endpoint._handler.clear()
    assert answer["code"] == "site.error"
    assert "canary" not in str(answer)
