"""The shared key of encrypted sums: made by one institution, carried by anybody, taken by the others."""

from __future__ import annotations

import base64
import json
import stat

import numpy as np
import pytest
from click.testing import CliRunner
from nacl.public import SealedBox
from nacl.signing import SigningKey

from fedrec.cli.main import cli
from fedrec.errors import Refused, WrongInput
from fedrec.exchange import ckks
from fedrec.exchange.passport import sign
from fedrec.exchange.wire import canonical
from fedrec.institution import audit
from fedrec.institution.shared_key import SharedKey, seal, share, take, unseal
from fedrec.institution.site import Keys

NAMES = ["aurora", "borealis", "delphi"]
UPDATE, LAYOUT = {"v": np.arange(3, dtype=np.uint32)}, ckks.Layout({"v": ckks.Form((3,), 32, False)}, 3)


@pytest.fixture
def folders(tmp_path):
    """Three institutions on one disk, which pinned one another's keys."""
    found = {name: tmp_path / name for name in NAMES}
    text = 'name = "c"\ntitle = "C"\n'
    for name, folder in found.items():
        folder.mkdir()
        (folder / "site.toml").write_text(f'name = "{name}"\ntitle = "T"\nowner = "owner@x.example"\n')
        key = Keys.load_or_make(folder / "state").public
        text += f'[[member]]\nname = "{name}"\nfolder = "{name}"\nkey = "{key}"\n'
    (tmp_path / "consortium.toml").write_text(text)
    (tmp_path / "items.csv").write_text("item\na\n")
    return found


def command(*words):
    done = CliRunner().invoke(cli, ["site", "keys", *map(str, words)])
    return done.exit_code, done.output


def code(call, *given):
    with pytest.raises(Refused) as refused:
        call(*given)
    return refused.value.code


def pinned(folders):
    return {name: Keys.load_or_make(folder / "state").public for name, folder in folders.items()}


def test_all_institutions_have_the_same_key_after_the_files_were_carried(folders, tmp_path):
    out = tmp_path / "out"
    exit_code, said = command(folders["aurora"], "--share", out, "--json", "-")
    assert exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["borealis.key.json", "delphi.key.json"]
    for name in NAMES[1:]:
        assert command(folders[name], "--take", out / f"{name}.key.json")[0] == 0
    keys = [SharedKey.load(folder / "state") for folder in folders.values()]
    assert keys[0] == keys[1] == keys[2]
    assert json.loads(said) == {"id": keys[0].id, "number": 1, "for": ["borealis", "delphi"]}
    for folder in folders.values():
        assert f"shared key 1, {keys[0].id}" in command(folder)[1]
        path = folder / "state" / "keys" / "ckks.json"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_sharing_again_shares_the_same_key_and_rotating_a_new_one(folders, tmp_path):
    first, again = share(folders["aurora"], tmp_path / "1", False), share(folders["aurora"], tmp_path / "2", False)
    assert again == first
    take(folders["delphi"], tmp_path / "1" / "delphi.key.json")
    assert command(folders["aurora"], "--share", tmp_path / "3", "--rotate")[0] == 0
    new = SharedKey.load(folders["aurora"] / "state")
    assert (new.number, new.id != first["id"]) == (2, True)
    assert take(folders["delphi"], tmp_path / "3" / "delphi.key.json") == {"id": new.id, "number": 2}
    sent = ckks.encrypt(UPDATE, SharedKey.load(folders["delphi"] / "state").key, LAYOUT)
    np.testing.assert_array_equal(ckks.decrypt(sent, new.key, LAYOUT)["v"], UPDATE["v"])


def test_an_older_key_is_not_taken_back_and_the_same_one_twice_is_fine(folders, tmp_path):
    """Or who keeps an old file, and has found that key since, would bring it back."""
    share(folders["aurora"], tmp_path / "1", False)
    share(folders["aurora"], tmp_path / "2", True)
    take(folders["delphi"], tmp_path / "2" / "delphi.key.json")
    take(folders["delphi"], tmp_path / "2" / "delphi.key.json")
    assert code(take, folders["delphi"], tmp_path / "1" / "delphi.key.json") == "key.old"
    assert SharedKey.load(folders["delphi"] / "state").number == 2


def test_who_carries_a_file_cannot_open_it_and_another_member_cannot_either(folders, tmp_path):
    share(folders["aurora"], tmp_path / "out", False)
    key, data = SharedKey.load(folders["aurora"] / "state").key, (tmp_path / "out" / "delphi.key.json").read_bytes()
    said = json.loads(data)
    for secret in (SigningKey.generate(), Keys.load_or_make(folders["borealis"] / "state").site):
        assert code(unseal, data, pinned(folders), "delphi", said["consortium"], secret) == "key.other"
    sealed = base64.b64decode(said["sealed"])
    assert all(key[at : at + 16] not in sealed for at in range(0, len(key) - 16, 1000))
    own = Keys.load_or_make(folders["delphi"] / "state").site  # control: it is in there for who has delphi's key
    assert SealedBox(own.to_curve25519_private_key()).decrypt(sealed) == key


@pytest.mark.parametrize("defence", [True, False])
def test_who_carries_a_file_cannot_swap_the_key_for_his_own(folders, tmp_path, defence):
    """He seals a key that he knows to delphi's pinned key, which is public. Control: delphi believes any signature."""
    scientist, names = SigningKey.generate(), pinned(folders)
    share(folders["aurora"], tmp_path / "out", False)
    consortium = json.loads((tmp_path / "out" / "delphi.key.json").read_bytes())["consortium"]
    his = SharedKey(9, ckks.make_key())
    forged = tmp_path / "forged.json"
    forged.write_bytes(seal(his, names, "delphi", consortium, scientist))
    if defence:
        assert code(take, folders["delphi"], forged) == "key.maker"
        assert SharedKey.load(folders["delphi"] / "state") is None
        return
    believing = {**names, "aurora": scientist.verify_key.encode().hex()}
    own = Keys.load_or_make(folders["delphi"] / "state").site
    taken = unseal(forged.read_bytes(), believing, "delphi", consortium, own)
    sent = ckks.encrypt(UPDATE, taken.key, LAYOUT)
    np.testing.assert_array_equal(ckks.decrypt(sent, his.key, LAYOUT)["v"], UPDATE["v"])


def test_a_member_who_is_not_the_first_cannot_make_a_key_nor_give_one(folders, tmp_path):
    with pytest.raises(WrongInput, match="aurora makes the key"):
        share(folders["delphi"], tmp_path / "out", False)
    names, signer = pinned(folders), Keys.load_or_make(folders["borealis"] / "state").site
    share(folders["aurora"], tmp_path / "out", False)
    consortium = json.loads((tmp_path / "out" / "delphi.key.json").read_bytes())["consortium"]
    file = tmp_path / "own.json"
    file.write_bytes(seal(SharedKey(1, b"key"), names, "delphi", consortium, signer))
    assert code(take, folders["delphi"], file) == "key.maker"


CHANGES = {
    "number": 2,
    "id": "00" * 32,
    "to": "borealis",
    "consortium": "00" * 32,
    "sealed": base64.b64encode(b"x" * 99).decode(),
    "maker": "delphi",
    "kind": "fedrec-shared-key-v2",
    "more": 1,
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_file_with_anything_changed_is_refused(folders, tmp_path, field):
    share(folders["aurora"], tmp_path / "out", False)
    file = tmp_path / "out" / "delphi.key.json"
    file.write_bytes(canonical({**json.loads(file.read_bytes()), field: CHANGES[field]}))
    assert code(take, folders["delphi"], file) == ("key.form" if field in ("kind", "more") else "key.maker")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [({"to": "borealis"}, "key.other"), ({"consortium": "00" * 32}, "key.other"), ({"id": "00" * 32}, "key.form")],
)
def test_what_the_maker_signed_for_another_is_refused_too(folders, tmp_path, change, refusal):
    share(folders["aurora"], tmp_path / "out", False)
    file = tmp_path / "out" / "delphi.key.json"
    facts = {name: value for name, value in json.loads(file.read_bytes()).items() if name != "signature"}
    file.write_bytes(canonical(sign({**facts, **change}, Keys.load_or_make(folders["aurora"] / "state").site)))
    assert code(take, folders["delphi"], file) == refusal


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"kind":"fedrec-shared-key-v1"}'])
def test_a_file_that_is_none_is_refused(folders, tmp_path, data):
    (tmp_path / "x").write_bytes(data)
    assert code(take, folders["delphi"], tmp_path / "x") == "key.form"


def test_the_log_says_who_made_and_took_which_key_and_what_was_refused(folders, tmp_path):
    said = share(folders["aurora"], tmp_path / "out", False)
    take(folders["delphi"], tmp_path / "out" / "delphi.key.json")
    assert code(take, folders["delphi"], tmp_path / "out" / "borealis.key.json") == "key.other"
    done = [event for event in audit.read(folders["aurora"], "key") if event["outcome"] == "done"]
    assert [event["object"] for event in done] == ["share"]
    events = [event for event in audit.read(folders["delphi"], "key") if event["outcome"] != "intent"]
    assert [(event["object"], event["outcome"]) for event in events] == [("take", "done"), ("take", "key.other")]
    assert events[0]["detail"] == {"id": said["id"], "number": 1}
    assert audit.verify(folders["delphi"]).verdict == "ok"


def test_a_key_that_others_can_read_is_not_used(folders, tmp_path):
    share(folders["aurora"], tmp_path / "out", False)
    path = folders["aurora"] / "state" / "keys" / "ckks.json"
    path.chmod(0o640)
    with pytest.raises(WrongInput, match="only its owner"):
        SharedKey.load(folders["aurora"] / "state")
    path.chmod(0o600)
    path.write_text("{}")
    with pytest.raises(WrongInput, match="not a shared key"):
        SharedKey.load(folders["aurora"] / "state")


@pytest.mark.parametrize(
    "words", [["--rotate"], ["--share", "out", "--take", "site.toml"], ["--rotate", "--take", "site.toml"]]
)
def test_wishes_that_do_not_belong_together_are_wrong_input(folders, words, monkeypatch):
    monkeypatch.chdir(folders["aurora"])
    done = CliRunner().invoke(cli, ["site", "keys", ".", *words])
    assert isinstance(done.exception, WrongInput)
    assert SharedKey.load(folders["aurora"] / "state") is None


def test_without_pinned_keys_nothing_is_shared(folders, tmp_path):
    file = tmp_path / "consortium.toml"
    text = file.read_text()
    file.write_text(text.replace(pinned(folders)["delphi"], ""))
    with pytest.raises(WrongInput, match="pins no key for delphi"):
        share(folders["aurora"], tmp_path / "out", False)
    file.write_text(text.replace(pinned(folders)["aurora"], "ab" * 32))
    with pytest.raises(WrongInput, match="another key for aurora"):
        share(folders["aurora"], tmp_path / "out", False)
