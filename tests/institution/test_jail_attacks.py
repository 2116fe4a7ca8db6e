"""More of what own code may try, each with a control where it works; and what no jail can see."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

import holes
import numpy as np
import pytest
from small_site import LIMITS, SCIENTIST, VECTOR, approved, ended, make_site, own, sent, task, train
from test_jail import processes_below, works

from fedrec.errors import Refused
from fedrec.exchange.wire import decode
from fedrec.institution import endpoint, footprint
from fedrec.institution.decisions import Decisions
from fedrec.institution.jail import Jail
from fedrec.institution.jobs import Jobs
from fedrec.institution.perform import perform

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
    if not defence:
        here.wait_ready()
        here.level = 2  # it says so, and is not
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


WRITES = """
import os, stat
for fd in range(3, 64):
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode) and b"ARROW" in os.pread(fd, 8, 0):
            os.pwrite(fd, b"x", 4000)
            break
    except OSError:
        pass
else:
    raise OSError
"""


@BOTH
def test_what_a_job_reads_it_cannot_write(defence, site, jobs, monkeypatch):
    before = site.store.rows_path.read_bytes()
    row = approved(site, own(WRITES))
    base = sent(site, row, VECTOR)
    with monkeypatch.context() as patch:
        if not defence:  # the control: the same rows, opened for writing
            patch.setattr(os, "O_RDONLY", os.O_RDWR)
        answer = ended(site, jobs, row, task(base))
    assert (answer["status"] == "done") is not defence, answer
    assert (site.store.rows_path.read_bytes() == before) is defence


# What a job does to itself only, and how it shows that it happens where there is no jail.
ITSELF = {
    "prints data": ("print('item', *rows.item[:2])", b"item 0 1"),
    "raises data": ("raise KeyError(str(rows.item[:2]))", b"KeyError: '[0 1]'"),
    "leaves at once": ("import os\nos._exit(7)", b"exit 7"),
    "patches numpy": ("np.isfinite = lambda _: True", b"patched"),
    "leaves a thread": ("import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()", b"threads 1"),
}


@pytest.mark.parametrize("does", ITSELF)
def test_what_a_job_does_to_itself_stays_in_it(does, site, jobs, jail, capfd):
    answer = train(site, jobs, approved(site, own(ITSELF[does][0])), VECTOR)
    assert answer["status"] == ("refused" if does in ("raises data", "leaves at once") else "done")
    assert "0 1" not in json.dumps(answer) + "".join(capfd.readouterr())
    assert threading.active_count() < 20
    assert np.isfinite(np.nan) == False  # noqa: E712  and the site's numpy is its own
    time.sleep(0.2)
    assert processes_below(jail.pid) == []
    works(site, jobs)


@pytest.mark.parametrize("does", ITSELF)
def test_control_without_the_jail_it_reaches_the_process_that_runs_it(does, site):
    code, sign = ITSELF[does]
    read, write = os.pipe()
    rows = site.store.rows()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        os.dup2(write, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1)
        before = threading.active_count()
        try:
            perform(own(code), "train", "p1", rows, VECTOR, {})
            print("patched" if np.isfinite(np.nan) else "", "threads", threading.active_count() - before)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        text = said.read() + b"exit %d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert sign in text


@BOTH
def test_a_loop_ends_with_the_jobs_time(defence, tmp_path, jail):
    site = make_site(tmp_path, LIMITS.replace("minutes = 0.05", f"minutes = {0.01 if defence else 0.1}"))
    jobs = Jobs(site, jail)
    loop = "import time\nbegan = time.monotonic()\nwhile time.monotonic() < began + 2:\n    pass"
    answer = train(site, jobs, approved(site, own(loop)), VECTOR)
    assert (answer.get("code") == "jail.time") is defence, answer
    jobs.close()
    site.close()


# Four processes that take 300 MB each, and one that waits for them.
FILLS = """
import os, stat, time
for _ in range(4):
    if not os.fork():
        held = np.ones(300 * 10**6 // 8)
        time.sleep(1.5)
        os._exit(0)
for fd in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            line = fd
    except OSError:
        pass
for _ in range(150):
    os.write(line, b" ")  # keeps the site reading
    time.sleep(0.01)
for _ in range(4):
    os.wait()
"""


@BOTH
def test_processes_that_a_job_forks_share_its_memory_limit(defence, tmp_path, jail, monkeypatch):
    """Each stays below RLIMIT_AS, which is all that a process has; the control does not add them up."""
    site = make_site(tmp_path, "own_code = true\nminutes = 0.3\nmemory_mb = 600\n")
    jobs = Jobs(site, jail)
    if not defence:
        monkeypatch.setattr(footprint, "taken", lambda *_: 0)
    began = time.monotonic()
    answer = train(site, jobs, approved(site, own(FILLS)), VECTOR)
    assert answer.get("code") == ("jail.memory" if defence else None), answer
    assert not defence or time.monotonic() - began < 10
    assert not defence or answer["reason"] == "the job's processes took more than 600 MB"
    until = time.monotonic() + 4
    while processes_below(jail.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert processes_below(jail.pid) == []
    monkeypatch.undo()
    works(site, jobs)
    jobs.close()
    site.close()


def test_one_process_below_its_limit_and_forks_that_take_nothing_are_left_alone(tmp_path, jail):
    """What they share with the warm parent and with one another counts once."""
    site = make_site(tmp_path, "own_code = true\nminutes = 0.3\nmemory_mb = 600\n")
    jobs = Jobs(site, jail)
    code = FILLS.replace("        held = np.ones(300 * 10**6 // 8)\n", "").replace(
        "import os", "held = np.ones(300 * 10**6 // 8)\nimport os"
    )
    answer = train(site, jobs, approved(site, own(code)), VECTOR)
    assert answer["status"] == "done", answer
    jobs.close()
    site.close()


def test_when_the_machine_has_no_memory_left_it_ends_a_job_first(site, jobs, jail):
    row = approved(site, own("import time\ntime.sleep(1)"))
    answer = jobs.start(row.key, row.fingerprint, task(sent(site, row, VECTOR)))
    assert answer["status"] == "running"
    worker = processes_below(jail.pid)[-1]
    assert Path(f"/proc/{worker}/oom_score_adj").read_text() == "1000\n"
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 1000


PRINTS = """
import os, time
for _ in range(20):
    os.write(1, bytes(10**6))
until = time.monotonic() + 2
while os.fstat(1).st_size > 10**6 and time.monotonic() < until:
    time.sleep(0.01)
assert os.fstat(1).st_size == 10**6
"""


def test_what_a_job_prints_is_cut_while_it_runs(site, jobs):
    """In the job's own eyes: 20 MB went into the log, and it is down to one before the job ends."""
    answer = train(site, jobs, approved(site, own(PRINTS)), VECTOR)
    assert answer["status"] == "done", answer


LEAK = "return {'v': rows.item[:8].astype(np.float64)}, {}"


def test_known_limit_rows_written_into_the_numbers_of_a_declared_tensor_leave(site, jobs):
    """No jail can see this: where own code is on, the owner's reading is the defence (docs/threat-model.md)."""
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
