"""T18: a person's texts are erased from a log, and every hash, proof, witness and verifier still agrees."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from audit_logs import OTHER, PERSON, kept, opened, write
from small_site import OWNER, SCIENTIST, Idle, make_site
from told import RUN, tell

from fedrec.cli.main import main
from fedrec.errors import Refused, WrongInput
from fedrec.institution import verify as verifier
from fedrec.institution.audit import read, verify
from fedrec.institution.commands import Commands
from fedrec.institution.evidence import find, index, unpack
from fedrec.institution.evidence.find import Wanted
from fedrec.institution.evidence.pack import pack
from fedrec.institution.evidence.reconcile import database, reconcile
from fedrec.institution.evidence.redaction import redact
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Ledger
from fedrec.institution.local import alone, own_log
from fedrec.institution.texts import Texts, erased
from fedrec.institution.texts import redact as erase
from fedrec.institution.verdict import Verdict


def both(folder: Path, *witnesses: Path) -> Verdict:
    """The verdict of fedrec, after verify.py alone has given the same."""
    words = [word for one in witnesses for word in ("--witness", str(one))]
    given = [sys.executable, "-I", "-S", verifier.__file__, str(folder), *words]
    run = subprocess.run(given, capture_output=True, text=True, check=False)
    found = verify(folder, witnesses=witnesses)
    assert json.loads(run.stdout) == found.as_dict()
    return found


def segments(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in verifier.files(folder))


def holds(folder: Path, text: str) -> bool:
    return any(text.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def log(tmp_path):
    """A log of twenty acts in several files."""
    folder = tmp_path / "log"
    write(folder, 20, segment=5000)
    return folder


@pytest.fixture(scope="module")
def story(tmp_path_factory, jail):
    """A site's whole story; its scientist's account is disabled at the end."""
    folder = tell(tmp_path_factory.mktemp("redacted"), jail)
    ledger = Ledger(folder / "state" / "ledger.sqlite")
    with own_log(folder) as log:
        assert log is not None
        with log.act("site", "site", "users.disable", SCIENTIST.email):
            assert ledger.disable_account(SCIENTIST.email)
        log.checkpoint()
    ledger.close()
    return folder


@pytest.mark.parametrize("defence", [True, False])
def test_t18_the_text_is_gone_and_the_chain_and_its_witnesses_hold(log, tmp_path, defence):
    """Control: who edits the lines themselves is found."""
    whole = opened(log)
    witness = kept(tmp_path / "borealis", [whole.checkpoint()])
    before = segments(log)
    assert (both(log, witness).verdict, both(log).absent) == ("ok", 0)
    assert holds(log, PERSON[0])
    if defence:
        assert len(erase(whole, whole.texts.holding("SCI@lab"))) == 1
    else:
        for path in verifier.files(log):
            path.write_bytes(path.read_bytes().replace(b'"actor":"~', b'"actor":"!'))
    whole.close()
    found = both(log, witness)
    if not defence:
        assert found.verdict == "tampered"
        return
    assert segments(log).startswith(before)
    assert not holds(log, PERSON[0])
    assert (found.verdict, found.absent, found.witnessed) == ("ok", 1, len(before.splitlines()) - 1)
    assert "1 texts erased" in found.sentence()
    intent, done = [event for event in read(log) if event["act"] == "redact"]
    assert (intent["outcome"], done["outcome"], done["of"], done["role"]) == (
        "intent",
        "done",
        intent["seq"],
        "operator",
    )
    acts = [event for event in read(log) if event["act"] == "train"]
    assert {event["actor"] for event in acts} == {f"~{done['object']}"}  # one person still, but nobody knows who
    assert {event["purpose"] for event in acts} == {"research"}
    assert {event["actor"] for event in read(log, "checkpoint")} == {"site"}


@pytest.mark.parametrize("how", ["changed", "salt", "gone", "huge"])
def test_a_text_that_was_changed_or_taken_away_past_the_log_is_found(log, how):
    (path,) = (one for one in (log / "texts").iterdir() if b"sci@" in one.read_bytes())
    data = path.read_bytes()
    salt = b"1" if data.startswith(b"0") else b"0"
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(
            {
                "changed": data.replace(b"sci@", b"eve@"),
                "salt": salt + data[1:],
                "huge": data * 2000,
            }[how]
        )
    found = both(log)
    assert (found.verdict, found.first_bad) == ("tampered", 1)
    assert "a text of the event" in found.reason
    assert all(erased(event["actor"]) for event in read(log, "train"))  # no reader shows the other text


def test_a_lone_file_says_how_many_texts_are_not_beside_it(tmp_path):
    path = write(tmp_path / "log", 2)
    (alone := tmp_path / "alone.jsonl").write_bytes(path.read_bytes())
    assert (verify(alone).verdict, verify(alone).absent) == ("ok", 2)


def test_who_is_erased_and_comes_back_has_another_name(log):
    site = opened(log)
    (name,) = erase(site, site.texts.holding(PERSON[0]))
    site.event(*PERSON, "stop", "x", outcome="done")
    assert site.texts.holding(PERSON[0]) not in ([], [name])
    site.close()
    assert list(read(log))[-1]["actor"] == PERSON[0]
    assert both(log).absent == 1


def test_a_text_that_looks_like_a_name_is_a_text(log):
    """Else a scientist could write another person's name into the log, or nobody's."""
    site = opened(log)
    name = site.texts.named(PERSON[0])
    site.event(name, "scientist", "stop", f'"{name}', outcome="done", purpose=f"by {name}", detail={"x": name})
    site.close()
    event = list(read(log))[-1]
    said = (event["actor"], event["object"], event["purpose"], event["detail"])
    assert said == (name, f'"{name}', f"by {name}", {"x": name})
    raw = json.loads(segments(log).splitlines()[-1])
    assert name not in (raw["actor"], raw["purpose"], raw["detail"]["x"])
    assert both(log).verdict == "ok"


def test_no_event_is_written_whose_text_cannot_be(tmp_path):
    site = opened(tmp_path)
    (tmp_path / "texts").write_text("no folder")
    with pytest.raises(Refused, match=r"audit\.write"):
        site.event(*PERSON, "stop", "x", outcome="done")
    (tmp_path / "texts").unlink()
    with pytest.raises(ValueError, match="too long"):
        site.event(*PERSON, "stop", "x", outcome="done", purpose="x" * verifier.MAX_LINE)
    site.event(*PERSON, "stop", "x", outcome="done")
    site.close()
    assert [event["actor"] for event in read(tmp_path)] == ["site", PERSON[0]]


def test_nothing_is_erased_when_the_log_cannot_say_so(log):
    site = opened(log)
    names = site.texts.holding(PERSON[0])
    handle, site._file = site._file, os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(Refused, match=r"audit\.write"):
        erase(site, names)
    os.close(site._file)
    site._file = handle
    site.close()
    assert Texts(log).holding(PERSON[0]) == names


def test_the_story_of_a_site_survives_the_erasure_of_its_scientist(story, tmp_path):
    """Packs, searches, access and reconciliation before and after; the site's own events name nobody afterwards."""
    index.build(story)
    assert not holds(story / "state" / "audit", "never@x.org")
    old = tmp_path / "old.zip"
    old.write_bytes(pack(story, RUN))
    alone = tmp_path / "alone.zip"
    alone.write_bytes(pack(story, RUN, alone=True))
    wanted = Wanted(who=SCIENTIST.email)
    before = list(index.search(story, wanted, pytest.fail))
    assert before == list(find.events_of(story, wanted)) != []
    with unpack_closing(old) as opened_pack:
        assert SCIENTIST.email in {event["actor"] for event in opened_pack.events(told=True)}

    with pytest.raises(WrongInput, match="has an account"):
        redact(story, OWNER.email)
    (task,) = (one for one in find.events_of(story, Wanted(act="publish")) if one["outcome"] == "done")
    assert len(redact(story, event=task["seq"])) == 1  # the purpose, and not who it was
    (task,) = (one for one in find.events_of(story, Wanted(act="publish")) if one["outcome"] == "done")
    assert (task["actor"], erased(task["purpose"])) == (SCIENTIST.email, True)
    (name,) = redact(story, SCIENTIST.email)
    with pytest.raises(WrongInput, match="keeps no such text"):
        redact(story, SCIENTIST.email)

    assert not holds(story / "state" / "audit", SCIENTIST.email)
    assert list(index.search(story, wanted, pytest.fail)) == []
    nameless = list(index.search(story, Wanted(who=f"~{name}"), pytest.fail))
    assert [event["seq"] for event in nameless] == [event["seq"] for event in before]
    assert index.check(story) == ""
    assert both(story).verdict == "ok"
    assert reconcile(story) == []
    new, key = tmp_path / "new.zip", verify(story).key
    new.write_bytes(pack(story, RUN))
    assert [unpack.check(one, key).reason for one in (old, alone, new)] == [""] * 3
    with unpack_closing(new) as opened_pack:
        assert SCIENTIST.email not in {event["actor"] for event in opened_pack.events(told=True)}
        assert not any(SCIENTIST.email.encode() in opened_pack.read(one) for one in opened_pack.names if "log/" in one)
    with closing(database(story / "state" / "ledger.sqlite")) as db:  # what the command says that it does not reach
        assert db.execute("SELECT COUNT(*) FROM accounts WHERE email=?", (SCIENTIST.email,)).fetchone() == (1,)


def unpack_closing(path: Path) -> closing[unpack.Pack]:
    return closing(unpack.Pack(io.BytesIO(path.read_bytes())))


def test_another_institution_s_copy_is_its_own(tmp_path):
    """A site's erasure touches its own log only; another site's log of the same person stays as it is."""
    first, second = write(tmp_path / "a", 2), write(tmp_path / "b", 2, OTHER)
    site = opened(first.parent)
    erase(site, site.texts.holding(PERSON[0]))
    site.close()
    assert (both(first.parent).absent, both(second.parent).absent) == (1, 0)


def test_a_running_site_erases_by_itself_and_goes_on(tmp_path):
    """Its memory of the text goes too: who acts afterwards has a new name in the log."""
    site = make_site(tmp_path)
    site.audit.event(*PERSON, "stop", "x", outcome="done")
    ready, ended = threading.Event(), threading.Event()

    async def serve() -> None:
        commands = Commands(site, None, Jobs(site, Idle()), {})
        server = await asyncio.start_unix_server(commands.answer, site.state / "control.sock")
        ready.set()
        await asyncio.to_thread(ended.wait)
        server.close()

    running = threading.Thread(target=asyncio.run, args=(serve(),))
    with alone(site.state) as free:
        assert free
        running.start()
        ready.wait()
        try:
            (name,) = redact(site.folder, PERSON[0])
            with pytest.raises(WrongInput, match="keeps no such text"):
                redact(site.folder, PERSON[0])
        finally:
            ended.set()
            running.join()
    assert not holds(site.state / "audit", PERSON[0])
    site.audit.event(*PERSON, "stop", "x", outcome="done")
    assert [event["actor"] for event in read(site.audit.folder, "stop")] == [f"~{name}", PERSON[0]]
    assert both(site.audit.folder).absent == 1
    site.close()


def test_the_command_erases_once_and_says_what_it_does_not_reach(story, capsys):
    before = signal.getsignal(signal.SIGTERM)
    codes = []
    for words in ([], ["--actor", "x@y.org", "--event", "3"], ["--actor", "x@y.org"], ["--event", "99999"]):
        with pytest.raises(SystemExit) as ended:
            main(["audit", "redact", str(story), *words])
        codes.append(ended.value.code)
    assert codes == [2] * 4
    with own_log(story) as log:
        assert log is not None
        log.event("gone@lab.example", "scientist", "stop", "x", outcome="done")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["audit", "redact", str(story), "--actor", "gone@lab.example"])
    out = capsys.readouterr().out
    assert ended.value.code in (None, 0)
    assert out.startswith("1 texts erased")
    assert "PySyft's store" in out
    assert not holds(story / "state" / "audit", "gone@lab.example")
    signal.signal(signal.SIGTERM, before)
