"""The site's own key made anew: the old one signs the change, and what both signed stays verifiable."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing

import pytest
from audit_logs import KEY, PUBLIC, SIGNER, changed, opened, write
from click.testing import CliRunner
from nacl.signing import SigningKey
from packed_runs import copied, files
from small_site import approved, make_site, recipe

from fedrec.cli.main import cli
from fedrec.config import ConsortiumConfig
from fedrec.errors import Refused, WrongInput
from fedrec.institution import verify as alone
from fedrec.institution.audit import Signer, read, verify
from fedrec.institution.evidence.pack import pack
from fedrec.institution.evidence.unpack import check
from fedrec.institution.local import alone as held_by
from fedrec.institution.permit import check as check_permit
from fedrec.institution.signing_key import renew
from fedrec.institution.site import Keys, Site

NEW = SigningKey(b"renewed".ljust(32, b"."))
NEXT = Signer(SIGNER.name, SIGNER.uid, NEW)
THIEF = SigningKey(b"thief".ljust(32, b"."))


def public(key):
    return key.verify_key.encode().hex()


def renewed(folder, **more):
    """A log of both keys, with events before and after."""
    write(folder, 4, **more)
    with closing(opened(folder, **more)) as log:
        log.renew(public(NEW))
    return write(folder, 4, signer=NEXT, **more)


def pins(folder, *keys):
    """consortium.toml with these keys of its member, today's first."""
    path = folder.parent / "consortium.toml"
    text = path.read_text().partition("key = ")[0].rstrip("\n")
    path.write_text(f'{text}\nkey = "{keys[0]}"\nformer = {json.dumps(keys[1:])}\n')
    return ConsortiumConfig.load(path)


def test_a_log_of_two_keys_is_verified_with_either_and_with_no_third(tmp_path):
    renewed(tmp_path / "log")
    for key in (PUBLIC, public(NEW)):
        found = verify(tmp_path / "log", key)
        assert (found.verdict, found.pinned, found.keys) == ("ok", True, [PUBLIC, public(NEW)])
        assert "2 keys" in found.sentence()
    assert verify(tmp_path / "log", public(THIEF)).verdict == "tampered"
    signed = [event["detail"]["key"] for event in read(tmp_path / "log", "checkpoint")]
    assert signed == sorted(signed, key=[PUBLIC, public(NEW)].index)
    assert set(signed) == {PUBLIC, public(NEW)}
    words = [sys.executable, "-I", "-S", alone.__file__, str(tmp_path / "log"), "--key", PUBLIC]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_every_key_s_last_signature_counts(tmp_path):
    """One bad signature of the old key is found, though the new key signed everything after it."""
    renewed(log := tmp_path / "log")

    def spoilt(events):
        of_old = [event for event in events if event["act"] == "checkpoint" and event["detail"]["key"] == PUBLIC]
        of_old[-1]["detail"]["signature"] = of_old[0]["detail"]["signature"]

    path = log / "0001.jsonl"
    path.write_bytes(changed(path.read_bytes(), spoilt, None))
    assert verify(log, public(NEW)).verdict == "tampered"


@pytest.mark.parametrize("signs", ["thief", "named"])
def test_a_key_that_no_checkpoint_of_the_old_one_stands_for_signs_nothing(tmp_path, signs):
    """Who can write the file but has not the old key: he signs on with his own, named before by an event or not.

    The control: the same with the old key, which is a renewal, is right.
    """
    write(tmp_path / "log", 4)
    thief = Signer(SIGNER.name, SIGNER.uid, THIEF)
    path = tmp_path / "log" / "0001.jsonl"
    with closing(opened(tmp_path / "log")) as log:
        log.renew(public(THIEF))
    write(tmp_path / "log", 1, signer=thief)
    assert verify(tmp_path / "log", PUBLIC).verdict == "ok"  # the control

    def forged(events):
        at = next(number for number, event in enumerate(events) if event["object"] == "renew")
        keep = at if signs == "thief" else at + 2  # without the old key's checkpoint over the naming
        later = [event for event in events[at + 3 :] if event["act"] == "checkpoint"][:1]
        events[keep:] = later

    path.write_bytes(changed(path.read_bytes(), forged, THIEF))
    found = verify(tmp_path / "log", PUBLIC)
    assert (found.verdict, "another site" in found.reason or "not signed" in found.reason) == ("tampered", True)


def test_a_log_is_not_opened_with_a_key_that_it_does_not_name(tmp_path):
    write(tmp_path / "log", 4)
    with pytest.raises(Refused) as refused:
        opened(tmp_path / "log", Signer(SIGNER.name, SIGNER.uid, THIEF))
    assert refused.value.code == "audit.tampered"
    opened(tmp_path / "log").close()


def test_the_change_outlives_files_of_the_log_that_come_after_it(tmp_path):
    renewed(tmp_path / "log", segment=2000)
    write(tmp_path / "log", 20, signer=NEXT, segment=2000)
    assert len(list((tmp_path / "log").glob("*.jsonl"))) > 3
    assert verify(tmp_path / "log", PUBLIC).verdict == "ok"


def test_a_crash_between_the_event_and_the_key_leaves_the_old_key_at_work(tmp_path):
    write(tmp_path / "log", 2)
    with closing(opened(tmp_path / "log")) as log:
        log.renew(public(THIEF))  # and the power is cut: the file still has the old key
    write(tmp_path / "log", 2)
    with closing(opened(tmp_path / "log")) as log:
        log.renew(public(NEW))
    write(tmp_path / "log", 2, signer=NEXT)
    assert verify(tmp_path / "log", public(NEW)).keys == [PUBLIC, public(NEW)]
    with pytest.raises(Refused):
        opened(tmp_path / "log", Signer(SIGNER.name, SIGNER.uid, THIEF))


def test_a_witness_s_lines_of_both_keys_are_testimony(tmp_path):
    from audit_logs import checkpoints, kept

    renewed(log := tmp_path / "log")
    lines = checkpoints(b"".join(path.read_bytes() for path in sorted(log.glob("*.jsonl"))))
    found = verify(log, PUBLIC, [kept(tmp_path / "other", lines)])
    assert (found.witnesses[0]["held"], found.witnesses[0]["unreadable"]) == (len(lines), 0)


def test_the_command_changes_the_key_of_a_stopped_site_and_its_permits_end(tmp_path):
    site = make_site(tmp_path)
    row, before = approved(site, recipe()), site.keys.public
    site.audit.close()
    done = CliRunner().invoke(cli, ["site", "keys", str(site.folder), "--renew", "--json", "-"])
    said = json.loads(done.stdout)
    assert (done.exit_code, said["former"]) == (0, [before])
    assert said["key"] == Keys.load_or_make(site.folder / "state").public != before
    assert sorted(path.name for path in (site.folder / "state" / "keys").iterdir()) == ["site.key", "syft.key", "uid"]
    assert verify(site.folder, said["key"]).keys == [before, said["key"]]
    pinned = pins(site.folder, said["key"], before)
    assert pinned.keys == {"a": (said["key"], before)}
    (tmp_path / "again.toml").write_text(pinned.as_toml())
    assert ConsortiumConfig.load(tmp_path / "again.toml").keys == pinned.keys
    again = Site.open(site.folder)
    with pytest.raises(Refused) as refused:
        check_permit(again.ledger.request(row.id), again.clock(), again.here)
    assert refused.value.code == "permit.signature"
    again.audit.close()
    assert renew(site.folder)["former"] == [said["key"], before]


def test_a_site_that_runs_keeps_its_key(tmp_path):
    site = make_site(tmp_path)
    before = site.keys.public
    with held_by(site.state), pytest.raises(WrongInput, match="stop it first"):
        renew(site.folder)
    assert Keys.load_or_make(site.state).public == before
    done = CliRunner().invoke(cli, ["site", "keys", str(site.folder), "--renew", "--share", str(tmp_path / "out")])
    assert isinstance(done.exception, WrongInput)


def test_packs_of_runs_before_and_after_the_change(stories, packs, tmp_path):
    """The old pack, and one made now of the old run, are good where the consortium names the former key; else not."""
    from told import RUN

    folder = copied(stories[0], tmp_path)
    said = renew(folder)
    new, old = said["key"], said["former"]
    pins(folder, new, *old)
    after = tmp_path / "after.zip"
    after.write_bytes(pack(folder, RUN))
    assert json.loads(files(after)["consortium.json"])["former"] == {"a": old}
    for path in (packs[0], after):
        assert check(path, pinned={"a": (new, *old)}).verdict == "ok"
        assert check(path).verdict == "ok"
    assert check(after, key=new).verdict == "ok"
    assert check(packs[0], key=new).verdict == "tampered"
    for path in (packs[0], after):
        assert check(path, pinned={"a": (public(KEY),)}).verdict == "tampered"
    assert check(packs[0], pinned={"a": (new,)}).verdict == "tampered"
