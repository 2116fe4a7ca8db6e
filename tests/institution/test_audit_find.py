"""Finding events in a log, following it, taking it out, and who could see what; the search index is never believed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
import threading
import tracemalloc
from contextlib import closing

import pytest
from nacl.signing import SigningKey
from small_site import OWNER, SCIENTIST, make_site

from fedrec.errors import Refused, WrongInput
from fedrec.institution import gate
from fedrec.institution.acts import seen
from fedrec.institution.audit import AuditLog, Signer
from fedrec.institution.evidence import access, export, find, index
from fedrec.institution.evidence.find import Wanted, moment
from fedrec.institution.local import local_act
from fedrec.institution.texts import Told

KEY = SigningKey(bytes(32))
FILTERS = [
    Wanted(who=OWNER.email),
    Wanted(who="scientist"),
    Wanted(act="train"),
    Wanted(act="users.*"),
    Wanted(request="ab12"),
    Wanted(run="r1"),
    Wanted(outcome="refused"),
    Wanted(outcome="done", act="train"),
    Wanted(who="nobody"),
]


def write(log: AuditLog) -> None:
    """Accounts that come and go, a permit, tasks of two runs, refusals, a look at rows."""
    for account in (OWNER, SCIENTIST):
        with log.act("site", "site", "users.add", account.email, detail={"role": account.role}):
            pass
    with log.act(SCIENTIST.email, "scientist", "submit", "f" * 64) as facts:
        facts["request"] = "ab12cd34"
    says = {"scientist": SCIENTIST.email, "data_version": "v", "not_before": "2000-01-01T00:00:00Z",
            "not_after": "2100-01-01T00:00:00Z", "hours": "0-24", "train": 2}  # fmt: skip
    with log.act(OWNER.email, "owner", "approve", "f" * 64, request="ab12cd34", permit="p1", detail=says):
        pass
    for run in ("r1", "r2"):
        for number in range(3):
            with log.act(
                SCIENTIST.email, "scientist", "train", "f" * 64, request="ab12cd34", run=run, round=number
            ) as facts:
                facts.update(sha256=f"{number}" * 64, bytes=10)
    log.event(SCIENTIST.email, "scientist", "call", "user.create", outcome="gate.role")
    log.event("anonymous", "none", "call", "unknown", outcome="gate.signature", detail={"refused": 3})
    with log.act("site", "site", "head", "v", detail={"rows": 3}):
        pass


@pytest.fixture
def folder(tmp_path):
    """A site's folder whose log has several files."""
    log = AuditLog(tmp_path / "state" / "audit", Signer("a", "00" * 16, KEY), segment=4000)
    write(log)
    log.close()
    assert len(list((tmp_path / "state" / "audit").glob("*.jsonl"))) > 2
    return tmp_path


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_each_filter_finds_what_it_says_with_and_without_the_index(folder, wanted):
    plain = list(find.events_of(folder, wanted))
    assert plain == [event for event in find.events_of(folder) if event in wanted]
    index.build(folder)
    said = []
    assert list(index.search(folder, wanted, said.append)) == plain
    assert said == []
    assert bool(plain) == (wanted.who != "nobody")


def test_a_time_is_a_moment_or_a_whole_day(folder):
    events = list(find.events_of(folder))
    day = events[0]["at"][:10]
    assert list(find.events_of(folder, Wanted(since=moment(day), until=moment(day, end=True)))) == events
    middle = events[7]["at"]
    assert list(find.events_of(folder, Wanted(until=middle))) == events[:7]
    assert list(find.events_of(folder, Wanted(since=middle))) == events[7:]
    assert moment("2026-01-01T02:00:00+02:00") == "2026-01-01T00:00:00.000000Z"
    assert moment("2026-01-31", end=True) == "2026-02-01T00:00:00.000000Z"
    with pytest.raises(WrongInput):
        moment("yesterday")


def test_a_place_without_a_log_and_a_line_that_is_no_event_are_wrong_input(folder):
    with pytest.raises(WrongInput, match="no audit log"):
        find.files_of(folder / "state")
    last = find.files_of(folder)[-1]
    last.write_bytes(last.read_bytes() + b"[]\n")
    with pytest.raises(WrongInput, match="no event"):
        list(find.events_of(folder, Wanted(act="train")))


@pytest.mark.parametrize("line", [b"[]\n", b"{}\n", b"\xff\n", b'{"act":"train","seq":1}\n'])
def test_a_line_that_is_no_event_is_wrong_input_for_who_follows_and_for_the_index_too(folder, line):
    index.build(folder)
    good = len(list(find.events_of(folder)))
    last = find.files_of(folder)[-1]
    last.write_bytes(last.read_bytes() + line)  # after the index was made, so that it is still used
    for wanted in (Wanted(), Wanted(act="train")):
        found = find.follow(folder, wanted, lambda: False)
        with pytest.raises(WrongInput, match="no event"):
            list(found)
        with pytest.raises(WrongInput, match="no event"):
            list(index.search(folder, wanted, pytest.fail))
    last.write_bytes(last.read_bytes().removesuffix(line))
    assert len(list(find.follow(folder, Wanted(), lambda: False))) == good


def test_a_look_at_many_requests_is_found_by_each_of_them(folder):
    log = AuditLog(folder / "state" / "audit", Signer("a", "00" * 16, KEY), segment=4000)
    log.event(OWNER.email, "owner", "view", "requests", outcome="done", detail=seen(["ab12cd34" * 4, "99" * 16]))
    log.close()
    index.build(folder)
    for name, views in (("ab12cd", 1), ("ab12cd34" * 4, 1), ("99" * 16, 1), ("98" * 16, 0)):
        for found in (find.events_of(folder, Wanted(request=name)), index.search(folder, Wanted(request=name), print)):
            assert sum(event["act"] == "view" for event in found if event["outcome"] == "done") == views


def test_following_gives_new_events_also_over_a_rotation(folder):
    log = AuditLog(folder / "state" / "audit", Signer("a", "00" * 16, KEY), segment=4000)
    before = len(list(find.events_of(folder)))
    enough, found = threading.Event(), []

    def reader():
        for event in find.follow(folder, Wanted(act="note"), lambda: not enough.is_set(), look=0.01):
            found.append(event["object"])

    thread = threading.Thread(target=reader)
    thread.start()
    for number in range(30):
        log.event("site", "site", "note", str(number), outcome="done")
    log.close()
    enough.set()
    thread.join(10)
    assert len(list(find.events_of(folder))) > before
    assert found == [str(number) for number in range(30) for _ in ("intent", "done")]


def test_reading_needs_memory_for_one_event_not_for_the_log(folder, tmp_path):
    line = find.files_of(folder)[0].read_bytes().splitlines(True)[3]
    big = tmp_path / "big.jsonl"
    big.write_bytes(line * 40_000)
    tracemalloc.start()
    count = sum(1 for _ in find.events_of(big, Wanted(act="users.*")))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40_000
    assert peak < 2 * 10**6 < big.stat().st_size


# out of the site


def test_a_csv_cell_that_a_spreadsheet_would_compute_is_made_text():
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]
    event = {"seq": 1, "at": "x", "act": "=HYPERLINK(1)", "detail": {"a": "=1"}, "round": None}
    assert [export.cell(text) for text in formulas] == [f"'{text}" for text in formulas]
    file = io.StringIO()
    assert export.write([event], "csv", file) == 1
    (row,) = csv.DictReader(io.StringIO(file.getvalue()))
    assert row["act"] == "'=HYPERLINK(1)"
    assert row["round"] == ""
    assert json.loads(row["detail"]) == {"a": "=1"}


def test_an_export_as_json_lines_says_that_it_is_one_and_else_what_the_log_says(folder):
    file, told = io.StringIO(), Told(folder)
    export.write(find.events_of(folder), "jsonl", file)
    lines = b"".join(path.read_bytes() for path in find.files_of(folder))
    assert file.getvalue().encode().replace(b'{"export":"fedrec",', b"{") == told.line(lines) != lines
    assert all(line.startswith('{"export":"fedrec",') for line in file.getvalue().splitlines())


def test_an_export_of_a_sites_own_log_is_an_event_in_it(closed):
    with local_act(closed, "export", "log", detail={"form": "csv"}):
        events = list(find.events_of(closed, Wanted(act="export")))
        assert [event["outcome"] for event in events] == ["intent"]
    done = list(find.events_of(closed, Wanted(act="export")))
    assert [event["outcome"] for event in done] == ["intent", "done"]
    assert done[-1]["detail"] == {"form": "csv"}


def test_nothing_is_exported_when_the_event_cannot_be_written(closed, no_space):
    with (
        no_space(closed / "state"),
        pytest.raises(Refused, match=r"audit\.write"),
        local_act(closed, "export", "log", detail={"form": "csv"}),
    ):
        raise AssertionError("the export went on")


@pytest.fixture
def closed(tmp_path):
    """A site's folder that nobody serves."""
    site = make_site(tmp_path)
    site.close()
    return site.folder


@pytest.fixture
def no_space():
    """As a full disk: no file of this process can grow beyond what the log has."""
    import resource
    import signal
    from contextlib import contextmanager

    @contextmanager
    def full(state):
        size = sum(path.stat().st_size for path in (state / "audit").glob("*.jsonl"))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, kept)

    return full


# the index


def test_t10_an_index_that_was_changed_is_said_and_not_used(folder):
    index.build(folder)
    good = list(find.events_of(folder, Wanted(act="train")))
    with closing(sqlite3.connect(index.place_of(folder))) as db, db:
        db.execute("DELETE FROM events WHERE act='train' AND number % 2")
    said = []
    assert list(index.search(folder, Wanted(act="train"), said.append)) == good
    assert "the index was changed since it was made" in said[0]
    assert index.check(folder).startswith("event ")


def test_t10_a_log_that_was_changed_but_not_its_index_is_said(folder):
    index.build(folder)
    log = find.files_of(folder)[0]
    log.write_bytes(log.read_bytes().replace(b'"act":"submit"', b'"act":"submat"'))
    said = []
    assert list(index.search(folder, Wanted(act="submit"), said.append)) == []
    assert "the log was changed since it was indexed" in said[0]
    assert index.check(folder)


def test_t10_an_index_made_anew_over_a_lie_is_found_when_it_is_compared_with_the_log(folder):
    """The control: who also changes the SHA-256 beside it hides events from a search, but not from the comparison."""
    index.build(folder)
    place = index.place_of(folder)
    with closing(sqlite3.connect(place)) as db, db:
        db.execute("DELETE FROM events WHERE act='train'")
    said = json.loads(place.with_name("index.json").read_text())
    place.with_name("index.json").write_text(json.dumps(said | {"index": index._sha256(place)}))
    assert list(index.search(folder, Wanted(act="train"), print)) == []
    assert index.check(folder).startswith("event ")


def test_events_after_the_index_was_made_are_found_too_and_a_lost_index_is_made_again(folder):
    index.build(folder)
    log = AuditLog(folder / "state" / "audit", Signer("a", "00" * 16, KEY), segment=4000)
    write(log)
    log.close()
    for wanted in FILTERS:
        assert list(index.search(folder, wanted, pytest.fail)) == list(find.events_of(folder, wanted))
    index.place_of(folder).with_name("index.json").unlink()
    said = []
    assert len(list(index.search(folder, Wanted(act="train"), said.append))) == 24
    assert "not readable" in said[0]
    count = index.build(folder)
    assert index.check(folder) == ""
    assert count == len(list(find.events_of(folder)))


# who could see what


def found(folder, since="2000-01-01", until="2100-01-01"):
    return access.access_of(find.events_of(folder), moment(since), moment(until))


def test_who_could_see_what_comes_from_the_log_alone(folder, tmp_path):
    copy = tmp_path / "only-the-log"
    shutil.copytree(folder / "state" / "audit", copy)
    told = found(copy)
    people = {one["who"]: one for one in told["accounts"]}
    assert [span["role"] for span in people[OWNER.email]["roles"]] == ["owner"]
    assert people[SCIENTIST.email]["did"] == {"submit": 1, "train": 6, "call refused (gate.role)": 1}
    assert people["anonymous"]["could_see"] == []
    (permit,) = told["permits"]
    assert (permit["permit"], permit["scientist"], permit["ended"]) == ("p1", SCIENTIST.email, None)
    assert [one["rows"] for one in told["rows_looked_at"]] == [3]
    assert [one["sha256"][0] for one in told["released"]] == ["0", "1", "2"] * 2
    assert "Permits that were live" in access.text_of(told)


def test_an_account_that_was_disabled_and_a_permit_that_was_revoked_are_not_there_afterwards(folder):
    log = AuditLog(folder / "state" / "audit", Signer("a", "00" * 16, KEY))
    with log.act("site", "site", "users.disable", SCIENTIST.email):
        pass
    with log.act(OWNER.email, "owner", "revoke", "f" * 64, request="ab12cd34"):
        pass
    log.close()
    events = list(find.events_of(folder))
    until = events[-1]["at"]
    after = access.access_of(events, moment("2099-01-01"), moment("2100-01-01"))
    assert [one["who"] for one in after["accounts"]] == [OWNER.email]
    assert after["permits"] == after["released"] == []
    before = access.access_of(events, moment("2000-01-01"), until)
    assert before["permits"][0]["why"] == f"revoke by {OWNER.email}"
    assert {one["who"] for one in before["accounts"]} >= {OWNER.email, SCIENTIST.email}


def test_what_a_role_could_see_is_what_the_gate_lets_it_call():
    assert set(access.COULD) == set(gate.PATHS)
    for role, paths in gate.PATHS.items():
        could = access.COULD[role]
        assert ("mock" in could) == ("action.get_mock" in paths), role
        assert ("cards" in could) == ("dataset.get_all" in paths), role
        assert any("request" in what for what in could) == ("request.get_all" in paths), role
        assert any("updates" in what for what in could) == ("code.call" in paths), role
