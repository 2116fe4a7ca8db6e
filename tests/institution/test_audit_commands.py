"""`fedrec audit` as a person calls it: what is printed, what JSON, and with which exit code."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from audit_logs import write
from told import RUN, tell

from fedrec.cli.main import main
from fedrec.institution.audit import AuditLog
from fedrec.institution.site import Keys


@pytest.fixture(scope="module")
def story(tmp_path_factory, jail):
    return tell(tmp_path_factory.mktemp("told"), jail)


@pytest.fixture
def folder(story, tmp_path):
    shutil.copytree(story.parent, tmp_path / "copy")
    return tmp_path / "copy" / story.name


@pytest.fixture
def call(capsys):
    """call(words…) → (exit code, stdout, stderr)."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["audit", *map(str, words)])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    yield run
    signal.signal(signal.SIGTERM, before)


def test_the_log_is_a_table_or_json_and_filters_narrow_it(call, story, tmp_path):
    code, out, _ = call("log", story, "--act", "train", "--outcome", "done")
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["0", "1", "2"]
    _, out, _ = call("log", story, "--who", "owner", "--json", "-")
    assert {event["act"] for event in json.loads(out)["events"]} == {"approve"}
    code, out, _ = call("log", story, "--run", RUN, "--json", tmp_path / "log.json")
    assert (code, out) == (0, "")
    assert {event["run"] for event in json.loads((tmp_path / "log.json").read_text())["events"]} == {RUN}
    assert call("log", story, "--since", "tomorrow")[0] == 2
    assert call("log", story, "--json", tmp_path / "no" / "where.json")[0] == 2
    assert call("log", story, "--follow", "--json", tmp_path / "log.json")[0] == 2


def test_a_folder_without_a_log_is_wrong_input(call, tmp_path):
    code, _, err = call("log", tmp_path)
    assert (code, err.count("\n")) == (2, 1)


def test_follow_prints_new_events_until_ctrl_c(folder):
    words = [sys.executable, "-m", "fedrec", "audit", "log", str(folder), "--follow", "--act", "note", "--json", "-"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        log = AuditLog(folder / "state" / "audit", Keys.load_or_make(folder / "state").signer("a"))
        log.event("site", "site", "note", "x", outcome="done")
        log.close()
        assert process.stdout is not None
        assert [json.loads(process.stdout.readline())["outcome"] for _ in range(2)] == ["intent", "done"]
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 130
        finally:
            process.kill()


def test_the_index_is_made_compared_and_a_changed_one_ends_with_3(call, folder):
    assert call("index", folder, "--check")[0] == 2
    assert call("index", folder)[0] == 0
    assert call("index", folder, "--check")[0] == 0
    index = folder / "state" / "audit" / "index.sqlite"
    index.write_bytes(index.read_bytes().replace(b"approve", b"apprave"))
    code, out, err = call("log", folder, "--act", "approve", "--json", "-")
    assert (code, len(json.loads(out)["events"])) == (0, 2)
    assert "reading the log itself" in err
    assert call("index", folder, "--check")[0] == 3


def test_an_export_says_how_many_events_there_are(call, folder, tmp_path):
    code, out, _ = call("export", folder, "--act", "train", "--out", tmp_path / "log.csv", "--json", "-")
    assert (code, json.loads(out)["events"]) == (0, 6)
    assert (tmp_path / "log.csv").read_text().startswith("seq,at,actor")
    assert call("export", folder, "--out", tmp_path / "no" / "log.csv")[0] == 2
    copy = tmp_path / "alone.jsonl"
    shutil.copyfile(next((folder / "state" / "audit").glob("*.jsonl")), copy)
    before = copy.read_bytes()
    assert call("export", copy, "--format", "jsonl", "--out", tmp_path / "log.jsonl")[0] == 0
    assert copy.read_bytes() == before  # a copy of a log takes no event
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == before.count(b"\n")
    code, out, _ = call("verify", tmp_path / "log.jsonl")  # texts stand in it, so no hash of it can be right
    assert (code, "an export, not a log" in out) == (2, True)
    assert call("verify", copy)[0] == 0
    assert call("log", tmp_path / "log.jsonl", "--act", "train")[0] == 0


def test_a_later_file_of_a_log_is_not_judged_alone_but_one_that_lost_its_beginning_is(call, tmp_path):
    written = write(tmp_path / "log", 40, segment=4000)
    later = sorted(written.glob("*.jsonl"))[1]
    code, out, _ = call("verify", later)
    assert (code, "a segment" in out) == (2, True)
    assert call("verify", written)[0] == 0
    first = sorted(written.glob("*.jsonl"))[0]
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(first.read_bytes().splitlines(True)[1:]))
    assert call("verify", cut)[0] == 3


def test_access_is_told_to_a_person_too(call, story):
    code, out, _ = call("access", story, "--from", "2000-01-01", "--to", "2099-12-31")
    assert code == 0
    for title in ("Accounts", "Permits that were live", "Rows looked at", "What left"):
        assert title in out


def test_a_pack_is_verified_like_a_log_and_a_changed_one_ends_with_3(call, folder, tmp_path):
    path = tmp_path / "a.zip"
    assert call("pack", folder, "--run", "nothing", "--out", path)[0] == 3
    code, out, _ = call("pack", folder, "--run", RUN, "--out", path, "--json", "-")
    assert (code, json.loads(out)["run"]) == (0, RUN)
    # the small site's consortium pins no key, so the auditor brings it
    key = Keys.load_or_make(folder / "state").public
    assert call("verify", path)[0] == 3
    assert call("verify", path, "--key", key)[0] == 0
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    code, out, _ = call("verify", path, "--key", key)
    assert (code, out.split()[0].strip(":")) == (3, "tampered")
    assert call("timeline", tmp_path / "copy" / "a")[0] in (2, 3)


def test_a_look_at_all_requests_or_at_the_quality_report_is_an_event(call, folder, capsys):
    for words in (["requests", "list", str(folder), "--json", "-"], ["site", "report", str(folder)]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert not ended.value.code
    capsys.readouterr()
    _, out, _ = call("log", folder, "--act", "view", "--outcome", "done", "--json", "-")
    events = json.loads(out)["events"]
    assert [event["object"] for event in events] == ["requests", "report"]
    assert events[0]["detail"]["requests"] == 1
    name = events[0]["detail"]["ids"]
    _, out, _ = call("log", folder, "--request", name, "--act", "view", "--json", "-")
    assert {event["object"] for event in json.loads(out)["events"]} == {"requests"}


def test_replay_and_reconcile_say_what_they_found(call, folder):
    code, out, err = call("replay", folder, "--run", RUN, "--round", "0", "--json", "-")
    assert (code, [one["same"] for one in json.loads(out)["tasks"]]) == (0, [True])
    assert "the same" in err
    assert call("replay", folder, "--run", "nothing")[0] == 3
    _, out, _ = call("log", folder, "--act", "replay", "--json", "-")
    told = [(event["run"], event["outcome"], event["detail"]) for event in json.loads(out)["events"]]
    assert told == [
        (RUN, "intent", {}), (RUN, "done", {"tasks": 1, "differ": 0}),
        ("nothing", "intent", {}), ("nothing", "replay.run", {}),
    ]  # fmt: skip
    assert call("verify", folder)[0] == 0
    assert call("reconcile", folder) == (0, "every act has its event, every event its act\n", "")
    (folder / "state" / "blobs" / "out" / "x").mkdir()
    (folder / "state" / "blobs" / "out" / "x" / "y").write_bytes(b"rows")
    code, out, _ = call("reconcile", folder)
    assert code == 3
    assert "act without event: updates: y" in out
