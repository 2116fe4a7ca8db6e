"""Evidence packs: the same bytes each time, checked offline, every changed byte found; several merged into one story."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from contextlib import closing

import numpy as np
import pytest
from nacl.signing import SigningKey
from small_site import OWNER, SCIENTIST
from told import RUN, forged, tell_all

from fedrec.errors import Refused
from fedrec.exchange.passport import sign
from fedrec.exchange.wire import sha256
from fedrec.institution.evidence.pack import _zip, pack
from fedrec.institution.evidence.timeline import figure_of, merge, text_of
from fedrec.institution.evidence.unpack import check, is_pack
from fedrec.institution.site import Keys, Site


@pytest.fixture(scope="module")
def stories(tmp_path_factory, jail):
    """Two institutions that took part in one run; each pins both keys."""
    folders = tell_all(tmp_path_factory.mktemp("two"), jail, ["a", "b"])
    keys = {folder.name: Keys.load_or_make(folder / "state").public for folder in folders}
    text = 'name = "c"\ntitle = "C"\n' + "".join(
        f'[[member]]\nname = "{name}"\nfolder = "{name}"\nkey = "{key}"\n' for name, key in keys.items()
    )
    for folder in folders:
        (folder.parent / "consortium.toml").write_text(text)
    return folders


@pytest.fixture(scope="module")
def packs(stories, tmp_path_factory):
    made = [tmp_path_factory.mktemp("packs") / f"{folder.name}.zip" for folder in stories]
    for path, folder in zip(made, stories, strict=True):
        path.write_bytes(pack(folder, RUN))
    return made


def copied(folder, tmp_path):
    shutil.copytree(folder.parent, tmp_path / "copy")
    return tmp_path / "copy" / folder.name


def files(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def signed_again(contents, folder):
    """The pack with a new manifest, as someone with the site's own key would make it."""
    contents.pop("MANIFEST.json")
    key = SigningKey(bytes.fromhex((folder / "state" / "keys" / "site.key").read_text().strip()))
    facts = sign({"files": {name: sha256(data) for name, data in contents.items()}}, key)
    return _zip({**contents, "MANIFEST.json": json.dumps(facts).encode()})


def test_the_same_log_gives_the_same_bytes_and_a_good_verdict(stories, packs):
    assert pack(stories[0], RUN) == packs[0].read_bytes()
    verdict = check(packs[0])
    assert (verdict.verdict, verdict.site) == ("ok", "a")
    assert is_pack(packs[0])
    assert not is_pack(stories[0])


def test_the_verifier_in_the_pack_needs_python_alone(packs, tmp_path):
    with zipfile.ZipFile(packs[0]) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "verify.py", "log"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["verdict"] == "ok"


def test_a_pack_holds_what_it_says_and_no_secret(stories, packs):
    found = files(packs[0])
    facts, permit = json.loads(found["run.json"]), json.loads(found["permit.json"])
    assert facts["rounds"] == [0, 1, 2]
    assert permit["fingerprint"] == facts["plan"]
    receipts = json.loads(found["receipts.json"])
    updates = [json.loads(line) for line in found["events.jsonl"].splitlines()]
    sent = [event["detail"]["sha256"] for event in updates if event["act"] == "train" and event["outcome"] == "done"]
    assert sorted(one["sha256"] for one in receipts) == sorted(sent)
    assert {event["act"] for event in updates} >= {
        "submit",
        "approve",
        "train",
        "fetch",
        "evaluate",
        "publish",
        "checkpoint",
    }
    everything = packs[0].read_bytes()
    for secret in (stories[0] / "state" / "keys").iterdir():
        if secret.name != "uid":
            assert secret.read_text().strip().encode() not in everything
    assert b"canary-" not in everything
    assert b"data/ratings.csv" not in everything


def test_a_pack_of_the_run_alone_is_proved_without_the_rest_of_the_log(stories, tmp_path):
    path = tmp_path / "alone.zip"
    path.write_bytes(pack(stories[0], RUN, alone=True))
    assert check(path).verdict == "ok"
    acts = {json.loads(line)["act"] for line in files(path)["events.jsonl"].splitlines()}
    assert "users.add" not in acts
    assert not [name for name in files(path) if name.startswith("log/") and name.endswith(".jsonl")]
    texts = [data.decode().partition("\n")[2] for name, data in files(path).items() if name.startswith("log/texts/")]
    assert sorted(texts) == sorted({OWNER.email, SCIENTIST.email, "P"})


@pytest.mark.parametrize("alone", [False, True])
def test_one_byte_changed_in_any_file_is_found(stories, tmp_path, alone):
    data = bytearray(pack(stories[0], RUN, alone=alone))
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as archive:
        spans = {
            entry.filename: (entry.header_offset + 30 + len(entry.filename), entry.file_size)
            for entry in archive.infolist()
        }
    path = tmp_path / "changed.zip"
    for name, (start, size) in spans.items():
        for place in start + rng.integers(0, size, 4):
            data[place] ^= 1
            path.write_bytes(data)
            assert check(path).verdict == "tampered", (name, place)
            data[place] ^= 1
    path.write_bytes(data)
    assert check(path).verdict == "ok"


def changed(name, old, new):
    def change(contents):
        assert old in contents[name], name
        contents[name] = contents[name].replace(old, new, 1)

    return change


def text_changed(old, new):
    """One of the texts beside the log says something else, or is not there."""

    def change(contents):
        (name,) = (one for one, data in contents.items() if one.startswith("log/texts/") and old in data)
        if new is None:
            contents.pop(name)
        else:
            contents[name] = contents[name].replace(old, new)

    return change


def without(name):
    return lambda contents: contents.pop(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed("permit.json", b'"publish": 1', b'"publish": 9'), "permit.json"),
        (changed("plan.toml", b"factors = 4", b"factors = 5"), "plan.toml"),
        (changed("policy.json", b'"own_code": true', b'"own_code": false'), "policy.json"),
        (changed("receipts.json", b'"users": 6', b'"users": 7'), "receipt"),
        (changed("run.json", b'"scientist": "sci@', b'"scientist": "eve@'), "run.json"),
        (changed("events.jsonl", b'"actor":"~', b'"actor":"!'), "not in the log"),
        (text_changed(b"sci@lab.example", b"eve@lab.example"), "is not the text that its name stands for"),
        (text_changed(b"sci@lab.example", None), "is gone and no event erased it"),
        (changed("proofs.json", b'"inclusion"', b'"inclusions"'), "KeyError"),
        (changed("verify.py", b"return", b"return  "), "verify.py"),
        (changed("log/0001.jsonl", b'"actor":"~', b'"actor":"!'), "the event's content was changed"),
        (without("receipts.json"), "lacks receipts.json"),
    ],
)
def test_even_with_the_sites_key_one_file_cannot_say_something_else(stories, packs, tmp_path, change, says):
    """The manifest alone is signed anew; each file is also bound to another."""
    contents = files(packs[0])
    change(contents)
    path = tmp_path / "forged.zip"
    path.write_bytes(signed_again(contents, stories[0]))
    verdict = check(path)
    assert verdict.verdict == "tampered"
    assert says in verdict.reason


def test_control_a_pack_that_is_only_signed_again_is_good(stories, packs, tmp_path):
    path = tmp_path / "again.zip"
    path.write_bytes(signed_again(files(packs[0]), stories[0]))
    assert check(path).verdict == "ok"


def test_an_alone_packs_event_that_was_changed_or_taken_from_elsewhere_is_found(stories, tmp_path):
    path = tmp_path / "alone.zip"
    for old, new, says in (
        (b'"actor":"~', b'"actor":"!', "was changed"),
        (b'"act":"fetch"', b'"act":"other"', "was changed"),
    ):
        path.write_bytes(pack(stories[0], RUN, alone=True))
        contents = files(path)
        changed("events.jsonl", old, new)(contents)
        path.write_bytes(signed_again(contents, stories[0]))
        assert says in check(path).reason


def test_garbage_is_never_ok_and_never_crashes(packs, tmp_path):
    rng, good = np.random.default_rng(1), packs[0].read_bytes()
    path = tmp_path / "garbage.zip"
    for number in range(60):
        kind = number % 3
        if kind == 0:
            data = b"PK\x03\x04" + rng.bytes(int(rng.integers(0, 4000)))
        elif kind == 1:
            data = good[: int(rng.integers(0, len(good)))]
        else:
            place = int(rng.integers(0, len(good) - 64))
            data = good[:place] + rng.bytes(64) + good[place + 64 :]
        path.write_bytes(data)
        assert check(path).verdict == "tampered"


def test_a_pack_signed_with_another_key_than_the_pinned_one_is_refused(packs):
    assert check(packs[0], pinned={"a": "0" * 64}).verdict == "tampered"
    assert check(packs[0], key="0" * 64).verdict == "tampered"


def test_a_run_that_the_log_does_not_have_or_not_yet_signed_is_refused(stories, tmp_path):
    with pytest.raises(Refused, match=r"pack\.run"):
        pack(stories[0], "nobody")
    folder = copied(stories[0], tmp_path)
    (log,) = (folder / "state" / "audit").glob("*.jsonl")
    whole = log.read_bytes().splitlines(True)
    log.write_bytes(b"".join(whole[:-1]))
    with pytest.raises(Refused, match=r"pack\.checkpoint"):
        pack(folder, RUN)


# several packs


def test_the_story_of_two_institutions_is_in_the_order_of_cause(packs):
    story = merge(packs)
    assert story["clashes"] == []
    assert story["missing"] == []
    trains = [(row["round"], row["outcome"]) for row in story["events"] if row["act"] == "train"]
    assert trains == [(number, outcome) for number in range(3) for outcome in ("intent", "intent", "done", "done")]
    for site in story["sites"]:
        numbers = [row["seq"] for row in story["events"] if row["site"] == site]
        assert numbers == sorted(numbers)
    assert [len(one["updates"]) for one in story["rounds"]] == [2, 2, 2]
    assert "Clashes\n  nothing" in text_of(story)


def shifted(folder, seconds, only=lambda event: True):
    from datetime import datetime, timedelta

    def change(event):
        if only(event):
            when = datetime.fromisoformat(event["at"]) + timedelta(seconds=seconds)
            event["at"] = when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return event

    forged(folder, change)


def packed(folder, path):
    path.write_bytes(pack(folder, RUN))
    return path


def test_a_clock_that_is_ten_minutes_ahead_is_shown_and_the_order_stays(stories, packs, tmp_path):
    folder = copied(stories[1], tmp_path)
    before = merge(packs)["clocks"][0]
    assert before["least_ms"] <= 0 <= before["most_ms"]  # they have the same clock
    shifted(folder, 600)
    story = merge([packs[0], packed(folder, tmp_path / "b.zip")])
    (clock,) = story["clocks"]
    assert (clock["least_ms"], clock["most_ms"]) == (before["least_ms"] + 600_000, before["most_ms"] + 600_000)
    assert clock["possible"]
    trains = [row["round"] for row in story["events"] if row["act"] == "train"]
    assert trains == sorted(trains)


def test_one_back_dated_event_cannot_be_true_with_any_clock(stories, packs, tmp_path):
    folder = copied(stories[1], tmp_path)
    shifted(
        folder, -3600, lambda event: event["act"] == "train" and event["round"] == 1 and event["outcome"] == "intent"
    )
    story = merge([packs[0], packed(folder, tmp_path / "b.zip")])
    assert not story["clocks"][0]["possible"]
    assert any("dated wrongly" in clash for clash in story["clashes"])


def test_counterparts_that_are_missing_are_named(stories, packs, tmp_path):
    folder = copied(stories[1], tmp_path)
    forged(folder, lambda event: event, lambda event: event["act"] not in ("evaluate", "fetch"))
    story = merge([packs[0], packed(folder, tmp_path / "b.zip")])
    assert "b has no evaluate of round 2, a has" in story["missing"]
    assert "b: nobody fetched the update of round 0" in story["missing"]
    alone = merge(packs[:1])
    assert alone["missing"] == ["no pack of b, which is a member; whether it took part, these packs do not say"]


def test_a_round_that_started_from_another_model_is_a_clash(stories, packs, tmp_path):
    def other(event):
        if event["act"] == "train" and event["round"] == 1:
            event["detail"]["base"] = "0" * 64
        return event

    folder = copied(stories[1], tmp_path)
    forged(folder, other)
    story = merge([packs[0], packed(folder, tmp_path / "b.zip")])
    assert "round 1 started from different models: a, b" in story["clashes"]


def test_a_history_rewritten_with_the_sites_key_clashes_with_what_the_other_saw(stories, packs, tmp_path):
    """Without the witness the rewritten pack is good: its owner has the key."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    first, second = copied(stories[0], tmp_path / "a"), copied(stories[1], tmp_path / "b")
    seen = [
        event for event in map(json.loads, files(packs[0])["events.jsonl"].splitlines()) if event["act"] == "checkpoint"
    ]
    with closing(Site.open(second)) as site:
        site.audit.event(
            SCIENTIST.email,
            "scientist",
            "witness",
            "a",
            outcome="done",
            run=RUN,
            detail={**seen[0]["detail"], "proved": False},
        )
        site.audit.checkpoint()

    def late(event):
        event["actor"] = event["actor"].replace("~", "!") if event["act"] == "fetch" else event["actor"]
        return event

    witness = packed(second, tmp_path / "b.zip")
    assert merge([packs[0], witness])["clashes"] == []
    forged(first, late)
    rewritten = packed(first, tmp_path / "a.zip")
    assert check(rewritten).verdict == "ok"
    (clash,) = merge([rewritten, witness])["clashes"]
    assert "witness-clash" in clash


def test_packs_of_different_runs_or_twice_the_same_are_refused(packs):
    with pytest.raises(Refused, match=r"timeline\.pack"):
        merge([packs[0], packs[0]])


def test_the_story_is_drawn(packs, tmp_path):
    figure_of(merge(packs)).savefig(tmp_path / "story.png")
    assert (tmp_path / "story.png").stat().st_size > 10_000
