"""Own code that wants out: what it may not do fails, and what it says does not reach the scientist."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path

import pytest
from small_site import LIMITS, VECTOR, approved, events, make_site, own, recipe, train

from fedrec.core.metrics import Sums
from fedrec.exchange.passport import FIELDS
from fedrec.institution.guard import Guard
from fedrec.institution.jail import Jail
from fedrec.institution.jobs import Jobs
from fedrec.institution.perform import perform
from fedrec.models import MFExplicit
from fedrec.scientist.plan import Plan

# Each block runs through when it gets what it wants, and raises when the jail stops it.
READS = {
    "the environment": 'import os; os.environ["FEDREC_CANARY"]',
    "a file": 'open("/etc/passwd").read()',
    "the site's key": 'open("{state}/keys/site.key").read()',
    "the site's rows by name": 'import glob; open(glob.glob("{state}/store/*/users.arrow")[0], "rb").read()',
    "a process's memory map": 'open("/proc/self/maps").read()',
    "a new file": 'open("{state}/../new-file", "w").write("1")',
    "the folder above": 'import os; assert len(os.listdir("/")) > 0; os.stat("/usr")',
    "a port of this machine": 'import socket; socket.create_connection(("127.0.0.1", {port}), 2)',
    "an abstract socket": 'import socket; socket.socket(socket.AF_UNIX).connect("\\0fedrec-{port}")',
    "the name server": 'import socket; socket.getaddrinfo("localhost", 80)',
}
BREAKS = {
    "200 forks": "import os\nfor _ in range(200):\n    os.fork()",
    "root": "import os; os.setuid(0)",
    "another root folder": 'import os; os.chroot("/")',
    "a mount": 'import ctypes, os\nassert ctypes.CDLL(None).mount(b"none", b"/", b"tmpfs", 0, None) == 0',
    "another program": 'import os; os.execv("/bin/sh", ["sh"])',
    # an ordinary user's job may send this to its namespace's first process, for which it means nothing
    "the parent's life": "import os, time; os.kill(1, 9); time.sleep(0.2); raise OSError",
    "writing to what it reads": (
        "import os\ngot = 0\nfor fd in range(3, 64):\n    try:\n"
        "        got += os.lseek(fd, 0, 1) >= 0 and len(os.read(fd, 1)) and os.pwrite(fd, b'x', 0)\n"
        "    except OSError:\n        pass\nassert got"
    ),
    "endless recursion": "def f():\n    f()\nf()",
    "leaving early": "import os; os._exit(0)",
    "killing itself": "import os; os.kill(os.getpid(), 9)",
    "a segmentation fault": "import ctypes; ctypes.string_at(0)",
}


@pytest.fixture
def door():
    """Something of this machine to connect to: a TCP port and an abstract socket of the same number."""
    tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    tcp.listen()
    port = tcp.getsockname()[1]
    unix.bind(f"\0fedrec-{port}")
    unix.listen()
    yield port
    tcp.close()
    unix.close()


def text_of(answer):
    return " ".join(str(answer[key]) for key in ("code", "reason", "next_step"))


def works(site, jobs):
    """An honest job still answers: six users' first three films each are trained on."""
    answer = train(site, jobs, approved(site, recipe("popularity", name=f"p{time.monotonic_ns()}")))
    assert answer["status"] == "done", answer
    assert (answer["passport"]["rows"], answer["passport"]["users"]) == (18, 6)


@pytest.mark.parametrize("wants", READS)
def test_own_code_reaches_nothing_of_the_machine(wants, site, jobs, door):
    code = READS[wants].replace("{state}", str(site.state)).replace("{port}", str(door))
    answer = train(site, jobs, approved(site, own(code)), VECTOR)
    assert answer["code"] == "jail.error", answer
    assert not (site.folder / "new-file").exists()
    assert "canary" not in text_of(answer)
    works(site, jobs)


@pytest.mark.parametrize("wants", READS)
def test_control_without_the_jail_the_same_code_gets_it(wants, site, jail, door):
    code = READS[wants].replace("{state}", str(site.state)).replace("{port}", str(door))
    done = perform(own(code), "train", "p1", site.store.rows(), VECTOR, {})
    assert done.update["v"].tolist() == [1] * 8


@pytest.mark.parametrize("wants", BREAKS)
def test_own_code_breaks_nothing(wants, site, jobs):
    answer = train(site, jobs, approved(site, own(BREAKS[wants])), VECTOR)
    assert answer["code"] == "jail.error", answer
    works(site, jobs)


def test_twenty_gigabytes_are_refused_by_name(site, jobs):
    answer = train(site, jobs, approved(site, own("np.ones(20 * 10**9 // 8)")), VECTOR)
    assert (answer["code"], answer["reason"]) == (
        "jail.memory", "the job ran out of memory in line 7 of the submitted code",
    )  # fmt: skip
    works(site, jobs)


@pytest.mark.parametrize(
    "code",
    [
        "raise ValueError(str(rows.item.tolist()))",
        'raise type("item_" + "_".join(map(str, rows.item[:5])), (Exception,), {})("x")',
        'raise type("ValueError\\n" + str(rows.item[:5]), (ValueError,), {})',
        "import os\nfor fd in range(3, 64):\n    try:\n"
        '        os.write(fd, b\'{"error": "item_0_1_2", "line": 501234}\')\n'
        "    except OSError:\n        pass\nos._exit(0)",
    ],
    ids=["message", "class name", "class name with a line", "report written by hand"],
)
def test_an_exception_says_no_more_than_a_known_name_and_a_line(code, site, jobs):
    answer = train(site, jobs, approved(site, own(code)), VECTOR)
    known = "the job ended with ValueError in line 7 of the submitted code"
    other = "the job ended with an exception of its own"
    assert answer["code"] == "jail.error"
    assert answer["reason"] in (known, other, f"{other} in line 7 of the submitted code")
    assert (answer["reason"] == known) == code.startswith("raise ValueError(")
    outcomes = [json.dumps(line) for line in events(site)]
    assert outcomes == ['"intent"', '"jail.error"']


def test_what_own_code_prints_stays_with_the_owner(site, jobs, capfd):
    code = "import os, sys\nprint('canary-print', flush=True)\nos.write(2, b'canary-fd')"
    answer = train(site, jobs, approved(site, own(code)), VECTOR)
    assert answer["status"] == "done"
    assert "canary" not in json.dumps(answer)
    assert "canary" not in "".join(capfd.readouterr())
    assert "canary-print" in next((site.state / "log").glob("*.log")).read_text()


def test_what_own_code_prints_does_not_fill_the_owners_disk(site, jobs):
    answer = train(site, jobs, approved(site, own('for _ in range(50):\n    print("x" * 10**5)')), VECTOR)
    assert answer["status"] == "done"
    assert next((site.state / "log").glob("*.log")).stat().st_size == 10**6


@pytest.mark.parametrize(
    ("gives", "code"),
    [
        ('{"v": np.ones(8), "more": np.ones(8)}', "guard.name"),
        ('{"w": np.ones(8)}', "guard.name"),
        ("{}", "guard.name"),
        ('{"v": np.full(8, np.nan)}', "guard.finite"),
        ('{"v": np.array([1.0] * 7 + [np.inf])}', "guard.finite"),
        ('{"v": np.full(8, 1e300)}', "guard.finite"),  # infinite as float32
        ('{"v": np.ones(9)}', "guard.shape"),
        ('{"v": np.ones((8, 1))}', "guard.shape"),
        ('{"v": np.ones(10_000_000)}', "guard.bytes"),  # 40 MB, and the site takes one: not even read
        ('{"v": np.ones(len(rows.user))}', "guard.shape"),
        ('{"v": np.ones(8, dtype=np.int64)}', "guard.dtype"),
        ('{"v": np.ones(8, dtype=bool)}', "guard.dtype"),
        ('{"v": np.array(["canary"] * 8)}', "jail.error"),
        ('{"v": np.array([object()] * 8)}', "jail.error"),
        ('{"v": rows}', "jail.error"),
    ],
)
def test_an_update_that_is_not_as_declared_does_not_leave(gives, code, site, jobs):
    row = approved(site, own(f"return {gives}, {{}}"))
    answer = train(site, jobs, row, VECTOR)
    assert answer["code"] == code, answer
    assert not list(site.blobs.path("out", row.id, "x").parent.glob("*"))
    assert events(site) == ["intent", code]


@pytest.mark.parametrize(
    "gives", ['{"v": np.ones(8), "more": np.ones(8)}', '{"v": np.full(8, np.nan)}', '{"w": np.ones(8)}']
)
def test_control_without_the_guard_the_same_update_leaves(gives, site, jobs, monkeypatch):
    monkeypatch.setattr(Guard, "check", lambda *_: None)
    row = approved(site, own(f"return {gives}, {{}}"))
    assert train(site, jobs, row, VECTOR)["status"] == "done"
    assert list(site.blobs.path("out", row.id, "x").parent.glob("*"))


def test_a_patched_numpy_neither_fools_the_guard_nor_the_next_job(site, jobs):
    code = (
        "import safetensors.numpy\nnp.isfinite = lambda value: np.ones(np.shape(value), bool)\nnp.bincount = None\n"
        'return {"v": np.full(8, np.nan)}, {}'
    )
    assert train(site, jobs, approved(site, own(code)), VECTOR)["code"] == "guard.finite"
    works(site, jobs)


FORGE = """
import os
def forge(text):
    for fd in range(3, 64):
        try:
            os.lseek(fd, 0, 1)
        except OSError:
            try:
                os.write(fd, text.encode())
            except OSError:
                pass
    os._exit(0)
"""


@pytest.mark.parametrize(
    "forged",
    [
        '{"rows": 1e12, "users": 1, "numbers": {}}',
        '{"rows": 31, "users": 6, "numbers": {}}',  # the site has 30 rows
        '{"rows": 30, "users": 7, "numbers": {}}',
        '{"rows": -1, "users": 6, "numbers": {}}',
        '{"rows": 5012345, "users": 6, "uid": "canary"}',
        '{"rows": "canary", "users": 6, "numbers": {}}',
        '{"rows": true, "users": 1, "numbers": {}}',
        '{"users": 6}',
    ],
)
def test_a_job_cannot_claim_more_rows_than_the_site_has(forged, site, jobs):
    answer = train(site, jobs, approved(site, own(f"{FORGE}\nforge({forged!r})")), VECTOR)
    assert answer["code"] == "guard.counts", answer


SUMS = {**Sums().as_dict(), "users": 6}


@pytest.mark.parametrize(
    "numbers",
    [
        json.dumps({"federated": {**SUMS, "recall": "canary-1 liked film-3"}}),
        json.dumps({"federated": {**SUMS, "recall": 7}}),
        json.dumps({"federated": {**SUMS, "recall": float("nan")}}),
        json.dumps({"federated": {**SUMS, "items": [0, 1, 2]}}),
        json.dumps({"federated": {**SUMS, "users": 7}}),
        json.dumps({"canary-1": SUMS}),
        json.dumps({"federated": {**SUMS, "users": True}}),
        '["canary-1"]',
        '"canary-1"',
    ],
)
def test_an_evaluation_written_by_own_code_releases_nothing_but_sums(numbers, site, jobs):
    row = approved(site, own(score=f"{FORGE}\nforge('{{\"numbers\": ' + {numbers!r} + '}}')"))
    assert train(site, jobs, row, VECTOR)["status"] == "done"
    answer = train(site, jobs, row, VECTOR, kind="evaluate")
    assert answer["code"] == "guard.numbers", answer
    assert "canary" not in json.dumps(answer)


def test_a_site_releases_the_errors_of_predicted_ratings_as_the_rehearsal_does(site, jobs):
    plan = Plan(model=MFExplicit(factors=1), rounds=1, train=("p1",), evaluate=True)
    start = plan.built.init(8, plan.seed).tensors
    row = approved(site, plan.spec)
    assert train(site, jobs, row, start)["status"] == "done"
    numbers = train(site, jobs, row, start, kind="evaluate")["numbers"]
    assert numbers["federated"]["rated"] == numbers["local"]["rated"] == 6
    assert numbers["popularity"]["rated"] == 0
    # from a mean of 0 every prediction is cut to 1, the lowest of the schema's scale; every rating is 4
    assert (numbers["federated"]["squared"], numbers["federated"]["absolute"]) == (54.0, 18.0)
    rehearsed = perform(plan.spec, "evaluate", "p1", site.store.rows(), start, {}, (1.0, 5.0))
    assert numbers == rehearsed.numbers


def test_control_without_the_guard_the_same_report_carries_data_out(site, jobs, monkeypatch):
    import fedrec.institution.outgoing as module

    monkeypatch.setattr(module, "check_sums", lambda numbers, *_: numbers)
    monkeypatch.setattr(module, "check_counts", lambda report, *_: (report["rows"], report["users"]))
    forged = "canary-1 liked film-3"
    row = approved(site, own(score=f'{FORGE}\nforge(\'{{"numbers": "{forged}"}}\')'))
    assert train(site, jobs, row, VECTOR)["passport"]["rows"] == 18
    assert train(site, jobs, row, VECTOR, kind="evaluate")["numbers"] == forged


def processes_below(pid: int) -> list[int]:
    """All descendants of a process, in whatever process namespace they are."""
    found = []
    with contextlib.suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, task.read_text().split()):
                found += [child, *processes_below(child)]
    return found


ENDLESS = {
    "loops": "while True:\n    pass",
    "unties itself from its parent and sleeps": "import ctypes, time\nctypes.CDLL(None).prctl(1, 0)\ntime.sleep(60)",
    "ignores signals in a session of its own": (
        "import os, signal, time\nfor number in (1, 2, 15, 24):\n    signal.signal(number, signal.SIG_IGN)\n"
        "os.setsid()\n"
        "if os.fork():\n    time.sleep(60)\nos.setsid()\ntime.sleep(60)"
    ),
}


@pytest.mark.parametrize("how", ENDLESS)
def test_a_job_that_does_not_end_is_ended_with_all_its_processes(how, tmp_path, jail):
    site = make_site(tmp_path, LIMITS.replace("minutes = 0.05", "minutes = 0.02"))  # 1.2 s
    jobs = Jobs(site, jail)
    began = time.monotonic()
    answer = train(site, jobs, approved(site, own(ENDLESS[how])), VECTOR)
    assert answer["code"] == "jail.time"
    assert 1.1 < time.monotonic() - began < 4
    ended = time.monotonic()
    while processes_below(jail.pid) and time.monotonic() - ended < 4:  # the promise is five seconds
        time.sleep(0.05)
    assert processes_below(jail.pid) == []
    works(site, jobs)
    jobs.close()
    site.close()


def test_a_thread_left_running_ends_with_the_job(site, jobs, jail):
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()"
    assert train(site, jobs, approved(site, own(code)), VECTOR)["status"] == "done"
    time.sleep(0.3)
    assert processes_below(jail.pid) == []


def test_every_answer_of_a_job_carries_a_signed_passport(site, jobs):
    row = approved(site, recipe("popularity", runs=9))
    for _ in range(2):
        assert set(train(site, jobs, row)["passport"]) == FIELDS | {"signature"}


def test_control_a_jail_of_level_one_does_not_hide_files_and_one_that_has_ended_refuses(tmp_path):
    """So it is the empty root folder of level 2 that stops the file, and not something else on the way."""
    site, jail = make_site(tmp_path), Jail(1)
    jobs = Jobs(site, jail)
    try:
        jail.wait_ready()
        jail.level = 2  # a site of level 2 gives it no job otherwise, see test_caps.py
        assert train(site, jobs, approved(site, own(READS["a file"])), VECTOR)["status"] == "done"
        row = approved(site, recipe())
        assert train(site, jobs, row)["status"] == "done"
    finally:
        jail.close()
    with pytest.raises(ProcessLookupError):
        os.kill(jail.pid, 0)
    jail.kill("no such job")
    assert train(site, jobs, row)["code"] == "jail.error"
    jobs.close()
    site.close()
