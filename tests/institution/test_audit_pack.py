"""Evidence packs: the same bytes each time, checked offline, every changed byte found."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from packed_runs import copied, files, signed_again
from small_site import OWNER, SCIENTIST
from told import RUN

from fedrec.errors import Refused
from fedrec.institution.evidence.pack import _zip, pack
from fedrec.institution.evidence.unpack import check, is_pack


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


def test_the_pack_says_that_its_verifier_reads_the_log_alone_and_fedrec_all_of_it(stories, packs, tmp_path):
    contents = files(packs[0])
    changed("permit.json", b'"publish": 1', b'"publish": 9')(contents)
    path = tmp_path / "permit.zip"
    path.write_bytes(signed_again(contents, stories[0]))
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path)
    words = [sys.executable, "-I", "-S", "verify.py", "log"]
    assert subprocess.run(words, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    assert "permit.json" in check(path).reason
    assert b"NOTHING ELSE" in contents["README.txt"]
    path.write_bytes(pack(stories[0], RUN, alone=True))
    alone = files(path)["README.txt"]
    assert (b"has no log" in alone, b"verify.py log" in alone) == (True, False)


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


@pytest.mark.parametrize("cut", [lambda log: log[:-3], lambda log: log + b"{", lambda log: b""])
def test_a_log_in_a_pack_that_is_not_whole_hides_no_other_change(stories, packs, tmp_path, cut):
    contents = files(packs[0])
    contents["log/0001.jsonl"] = cut(contents["log/0001.jsonl"])
    changed("permit.json", b'"publish": 1', b'"publish": 9')(contents)
    path = tmp_path / "torn.zip"
    path.write_bytes(signed_again(contents, stories[0]))
    assert check(path).verdict == "tampered"


def test_another_versions_verifier_that_the_site_signed_is_said_and_is_no_forgery(stories, packs, tmp_path):
    contents = files(packs[0])
    changed("verify.py", b"return", b"return  ")(contents)
    path = tmp_path / "older.zip"
    path.write_bytes(signed_again(contents, stories[0]))
    verdict = check(path)
    assert (verdict.verdict, "another version" in verdict.reason) == ("ok", True)
    path.write_bytes(_zip({**contents, "MANIFEST.json": files(packs[0])["MANIFEST.json"]}))  # the control: unsigned
    assert check(path).verdict == "tampered"
    assert check(packs[0]).reason == ""


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
    assert check(packs[0], pinned={"a": ("0" * 64,)}).verdict == "tampered"
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
