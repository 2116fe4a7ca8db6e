"""Level 3: bubblewrap around the warm parent; what it adds, and a site that does not reach its least level."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_site import LIMITS, OWNER, VECTOR, approved, make_site, own, train
from test_jail import BREAKS, ENDLESS, READS, door, processes_below, text_of, works  # noqa: F401  door is a fixture

from fedrec.errors import Refused, WrongInput
from fedrec.institution import walls
from fedrec.institution.decisions import Decisions
from fedrec.institution.jail import Jail
from fedrec.institution.jobs import Jobs

SPACES = ("mnt", "pid", "net", "ipc", "uts")


@pytest.fixture(scope="module")
def third():
    """A jail of level 3. A machine without bubblewrap fails the tests: nothing is skipped."""
    made = Jail(3)
    made.wait_ready()
    yield made
    made.close()


@pytest.fixture
def inside(site, third):
    made = Jobs(site, third)
    yield made
    made.close()


@pytest.mark.parametrize("wants", READS)
def test_own_code_reaches_nothing_of_the_machine(wants, site, inside, door):  # noqa: F811
    code = READS[wants].replace("{state}", str(site.state)).replace("{port}", str(door))
    answer = train(site, inside, approved(site, own(code)), VECTOR)
    assert answer["code"] == "jail.error", answer
    assert not (site.folder / "new-file").exists()
    assert "canary" not in text_of(answer)


@pytest.mark.parametrize("wants", BREAKS)
def test_own_code_breaks_nothing(wants, site, inside):
    answer = train(site, inside, approved(site, own(BREAKS[wants])), VECTOR)
    assert answer["code"] == "jail.error", answer
    works(site, inside)


@pytest.mark.parametrize("how", ENDLESS)
def test_a_job_that_does_not_end_is_ended_with_all_its_processes(how, tmp_path, third):
    """Its number inside bubblewrap is another process's here, so the site ends it by its handle."""
    site = make_site(tmp_path, LIMITS.replace("minutes = 0.05", "minutes = 0.02"))
    jobs = Jobs(site, third)
    before = set(processes_below(third.pid))  # one of the test before may just be ending
    assert train(site, jobs, approved(site, own(ENDLESS[how])), VECTOR)["code"] == "jail.time"
    ended = time.monotonic()
    while not set(processes_below(third.pid)) <= before and time.monotonic() - ended < 4:
        time.sleep(0.05)
    assert set(processes_below(third.pid)) <= before
    works(site, jobs)
    jobs.close()
    site.close()


def test_an_owner_who_revokes_ends_the_job(site, inside, third):
    row, before = approved(site, own("import time\ntime.sleep(60)")), set(processes_below(third.pid))
    undo = threading.Timer(0.9, Decisions(site, inside).undo, [OWNER, row.id, "no", lambda: True])
    undo.start()
    began = time.monotonic()
    with pytest.raises(Refused, match=r"permit\.revoked"):
        train(site, inside, row, VECTOR)
    undo.join()
    while not set(processes_below(third.pid)) <= before:
        assert time.monotonic() - began < 5.9
        time.sleep(0.05)


def innermost(jail: Jail) -> int:
    """The warm parent itself, which bubblewrap stands around."""
    return processes_below(jail.pid)[-1] if jail.level == 3 else jail.pid


def test_the_warm_parent_itself_sees_no_file_no_network_and_no_process(site, third, jail):
    """The control is level 2: there it stands in the machine's own file system and network."""
    key = site.state / "keys" / "site.key"
    for level, pid in ((3, innermost(third)), (2, innermost(jail))):
        root = Path(f"/proc/{pid}/root")
        shared = [os.readlink(f"/proc/{pid}/ns/{space}") == os.readlink(f"/proc/self/ns/{space}") for space in SPACES]
        seen = [(root / str(path).lstrip("/")).exists() for path in (key, "/etc/passwd", "/bin/sh")]
        assert set(shared) == {level == 2}, level
        assert set(seen) == {level == 2}, level
        if level == 3:
            shown = {Path(path).parts[1] for path in walls.shown()}
            assert {entry.name for entry in root.glob("*")} <= {"dev", "proc", "tmp"} | shown


def test_it_cannot_write_to_what_it_sees(third):
    text = (
        "import sys\nfor path in sys.argv[1:]:\n    try:\n        open(path + '/new', 'w')\n"
        "    except OSError as error:\n        print(error.errno)"
    )
    command = walls.command(["-c", text, str(walls.PACKAGE), "/"])
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["30", "30"]  # a read-only file system


def test_level_three_is_taken_where_it_works_and_refused_where_it_does_not(monkeypatch, tmp_path):
    assert [walls.level_here(least) for least in (1, 2, 3)] == [1, 3, 3]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [walls.level_here(least) for least in (1, 2)] == [1, 2]
    for refused in (lambda: walls.level_here(3), lambda: Jail(3)):
        with pytest.raises(WrongInput, match="jail level 3 does not work here: it needs the package bubblewrap"):
            refused()
    (tmp_path / "bwrap").write_text("#!/bin/sh\nexit 1\n")  # installed, but the machine does not let it
    (tmp_path / "bwrap").chmod(0o755)
    assert walls.level_here(2) == 2
    with pytest.raises(WrongInput, match="jail level 3 does not work here"):
        walls.level_here(3)


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_site_whose_least_level_is_not_reached_does_not_start(command, tmp_path):
    make_site(tmp_path, "jail_level = 3\n").close()
    run = subprocess.run(
        [sys.executable, "-m", "fedrec", "site", command, str(tmp_path / "a")], capture_output=True, text=True,
        env={**os.environ, "PATH": str(tmp_path), "FEDREC_OWNER_PASSWORD": "owner-secret"}, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    said = {"serve": run.stderr, "check": run.stdout}[command]  # the doctor's findings are its result
    assert "jail level 3 does not work here" in said
    assert run.stdout == "" or command == "check"
