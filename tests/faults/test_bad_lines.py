"""Lines that break or are poor, answers that come twice or too late, permits that end and jobs that hang, in the middle of a round.

Each over real sites, synchronous and with a quorum: it ends soon, in one clear sentence or without the site, and what
is resumed afterwards is the run that nothing happened to.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import real_sites
from bad_lines import Proxy, held, jobs_of, until
from real_sites import ADA_PASSWORD, approved, fresh, http_call

import fedrec
from fedrec.aggregation import Quorum
from fedrec.demo.sites import SCIENTIST
from fedrec.errors import Refused
from fedrec.scientist import line
from fedrec.scientist.runs import Run

pytestmark = [pytest.mark.sites, pytest.mark.timeout(300)]
SILENCE = 8.0  # longest silence of a site that a call waits for here; in product code a minute
MODEL = fedrec.models.MF(factors=4)


@pytest.fixture(scope="module")
def here(sites, owners, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A login at the four sites, at borealis through a proxy."""
    proxy = Proxy(sites.all["borealis"].url, delay=SILENCE + 2)
    text = sites.consortium.read_text().replace(sites.all["borealis"].url, proxy.url)
    path = tmp_path_factory.mktemp("broken") / "consortium.toml"
    path.write_text(text)
    (path.parent / "items.csv").write_bytes((sites.work / "items.csv").read_bytes())
    patch = pytest.MonkeyPatch()
    patch.setattr(line, "SECONDS", SILENCE)
    pids = {name: int(site.facts["pid"]) for name, site in sites.all.items()}
    federation = fedrec.connect(path, SCIENTIST, ADA_PASSWORD)
    yield SimpleNamespace(federation=federation, owners=owners, proxy=proxy, pids=pids, sites=sites)
    patch.undo()
    proxy.close()


@pytest.fixture(autouse=True)
def serving(here) -> Iterator[None]:
    """Whatever a test does, afterwards every site serves and no job hangs."""
    yield
    here.proxy.mode = ""
    for site in here.sites.all.values():
        assert http_call(site.url, "GET", "/api/v2/metadata")[0] == 200
    until(lambda: not any(jobs_of(pid) for pid in here.pids.values()))


def started(here, schedule=None, rounds=3, **more) -> tuple[Run, dict[str, str]]:
    plan = fresh(MODEL, rounds=rounds, schedule=schedule, **more)
    ids = approved(here.federation, here.owners, plan).ids
    return Run.start(plan, here.federation), ids


def same_as_simulated(here, run) -> None:
    wanted = real_sites.simulated(here.sites).train(run.plan)
    assert [one["model"] for one in run.log] == [one["model"] for one in wanted.log]


def refused(call, within: float) -> Refused:
    began = time.monotonic()
    with pytest.raises(Refused) as caught:
        call()
    assert time.monotonic() - began < within
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("mode", ["reset", "hole", "half", "late"])
def test_a_synchronous_run_stops_at_a_broken_line_and_goes_on_to_the_same_model(mode, here):
    run, _ = started(here)
    next(run.rounds())
    here.proxy.mode = mode
    refusal = refused(run.finish, within=6 * SILENCE)
    assert (refusal.code, "borealis" in refusal.reason, here.proxy.broken > 0) == ("site.lost", True, True)
    assert "1 rounds are committed" in refusal.reason
    here.proxy.mode = ""
    run.finish()
    same_as_simulated(here, run)


def test_answers_that_come_twice_are_read_once(here):
    run, _ = started(here)
    next(run.rounds())
    here.proxy.mode, here.proxy.broken = "twice", 0
    run.finish()
    assert here.proxy.broken > 0
    same_as_simulated(here, run)


@pytest.mark.parametrize("mode", ["far", "narrow", "lossy"])
def test_a_poor_line_makes_a_round_slow_and_nothing_else(mode, here):
    run, _ = started(here, rounds=1)
    here.proxy.mode, here.proxy.broken = mode, 0
    run.finish()
    assert here.proxy.broken > 0
    assert run.log[0]["seconds"] > {"far": 4, "narrow": run.log[0]["bytes_up"] / 4 / 64_000, "lossy": 0}[mode]
    same_as_simulated(here, run)


@pytest.mark.parametrize("mode", ["reset", "hole"])
def test_a_quorum_goes_on_without_a_site_whose_line_is_broken_and_takes_it_back(mode, here):
    run, _ = started(here, Quorum(3), rounds=20)
    began = time.monotonic()
    for done in run.rounds():
        here.proxy.mode = mode if done.number in (0, 1) else ""
        if done.number > 1 and "borealis" in done.sites:
            break
        if done.number > 1:
            time.sleep(SILENCE / 4)  # until the line is known to be lost
    assert time.monotonic() - began < 8 * SILENCE
    with_it = ["borealis" in one["sites"] for one in run.log]
    assert with_it[:2] == [True, False]
    assert with_it[-1], run.log
    assert {code for one in run.log for code in one.get("left_out", {}).values()} <= {"site.lost", "update.late"}


def test_a_quorum_goes_on_without_a_site_whose_job_hangs_and_the_next_run_does_not_wait_for_it(here):
    run, ids = started(here, Quorum(3))
    rounds = run.rounds()
    next(rounds)  # the one that measures
    began = time.monotonic()
    with held(here.pids["delphi"]):
        assert len(list(rounds)) == 2
        assert time.monotonic() - began < 8 * SILENCE
        assert all("delphi" not in one["sites"] for one in run.log[1:])
        until(lambda: jobs_of(here.pids["delphi"]))
        began = time.monotonic()
        here.owners["delphi"].undo(ids["delphi"], "it hangs")
        until(lambda: not jobs_of(here.pids["delphi"]), 20)  # the owner ends it
        other, _ = started(here, Quorum(3), rounds=1)
    other.finish()
    assert len(other.log[0]["sites"]) == 4


def test_a_permit_that_is_revoked_while_its_job_runs_ends_the_round_in_one_sentence(here):
    run, ids = started(here)
    with held(here.pids["aurora"]):
        answer = threading.Timer(
            0,
            lambda: (until(lambda: jobs_of(here.pids["aurora"])), here.owners["aurora"].undo(ids["aurora"], "enough")),
        )
        answer.start()
        refusal = refused(run.finish, within=6 * SILENCE)
        answer.join()
    assert (refusal.code, run.log) == ("permit.revoked", [])
    assert "enough" in refusal.reason
    assert not list((here.sites.all["aurora"].folder / "state" / "blobs").glob(f"*/{ids['aurora']}/*"))


@pytest.mark.parametrize("schedule", [None, Quorum(3)], ids=["synchronous", "quorum"])
def test_a_permit_that_expires_while_its_job_runs_lets_nothing_out(schedule, here):
    plan = fresh(MODEL, rounds=2, schedule=schedule)
    requests = here.federation.submit(plan)
    for name, request in requests.ids.items():
        end = datetime.now(UTC) + timedelta(seconds=5)
        here.owners[name].approve(request, **({"until": end.isoformat()} if name == "delphi" else {}))
        last = end
    run = Run.start(plan, here.federation)
    with held(here.pids["delphi"]) as freed:
        threading.Timer(max(0.0, (last - datetime.now(UTC)).total_seconds()) + 1, freed.set).start()
        if schedule is None:
            assert refused(run.finish, within=6 * SILENCE).code == "permit.expired"
        else:
            run.finish()
            assert [one["left_out"]["delphi"] for one in run.log] == ["permit.expired"] * 2
    assert not list((here.sites.all["delphi"].folder / "state" / "blobs" / "out").glob(f"{requests.ids['delphi']}/*"))


@pytest.mark.parametrize("schedule", [None, Quorum(4)], ids=["synchronous", "quorum"])
def test_answers_that_all_come_at_once_are_all_merged(schedule, here):
    run, _ = started(here, schedule, rounds=2)
    with held(*here.pids.values()) as freed:
        gate = threading.Timer(0, lambda: (until(lambda: all(map(jobs_of, here.pids.values()))), freed.set()))
        gate.start()
        run.finish()
        gate.join()
    assert [len(one["sites"]) for one in run.log] == [4, 4]
    same_as_simulated(here, run)
