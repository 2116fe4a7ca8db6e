"""A user who is forgotten is in nothing that the institution keeps, and comes back by no intake."""

from __future__ import annotations

import fcntl
import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from serving import COUNTS, serve
from small_site import approved, make_site, recipe

from fedrec.cli.main import cli
from fedrec.errors import DataError, Refused, WrongInput
from fedrec.exchange.wire import decode, encode
from fedrec.institution.audit import read, verify
from fedrec.institution.forgetting import forget
from fedrec.institution.forgotten import Forgotten
from fedrec.institution.intake import take_in_folder
from fedrec.institution.one_job import perform
from fedrec.institution.permit import Task
from fedrec.institution.recommending import Recommender
from fedrec.institution.store import Store, versions


@pytest.fixture
def closed(tmp_path):
    """A site's folder with a served model, a live permit with private parameters, and an update that lies ready."""
    site = make_site(tmp_path)
    row = approved(site, recipe("mf"))
    private = site.state / "private" / row.id / "r" / "0.safetensors"
    private.parent.mkdir(parents=True)
    private.write_bytes(encode({"users": np.ones((6, 4))}))
    ready = site.state / "blobs" / "out" / row.id / ("ab" * 32)
    ready.parent.mkdir(parents=True)
    ready.write_bytes(b"update")
    serve(site, shared=COUNTS)
    site.close()
    return site.folder


def everything(folder):
    """All bytes below state, but the audit log's: a canary that is there is found."""
    return b"".join(path.read_bytes() for path in sorted((folder / "state").rglob("*")) if path.is_file())


def test_nothing_of_the_user_is_left(closed):
    """The control is the same search before."""
    old = Store.open(closed / "state")
    assert b"canary-2" in everything(closed)
    done = forget(closed, "canary-2")
    assert b"canary-2" not in everything(closed)
    assert b"canary-3" in everything(closed)
    new = Store.open(closed / "state")
    assert {key: done[key] for key in ("rows", "versions", "models", "requests", "version")} == {
        "rows": 5, "versions": 1, "models": 1, "requests": 1, "version": new.version
    }  # fmt: skip
    assert versions(closed / "state") == {new.version} != {old.version}
    assert new.user_ids() == ["canary-0", "canary-1", "canary-3", "canary-4", "canary-5"]
    assert new.rows().item[10:15].tolist() == [3, 4, 5, 6, 7]  # user 3's, now at place 2
    assert not list((closed / "state" / "private").glob("*"))
    assert not list((closed / "state" / "blobs" / "out").glob("*"))
    assert new.report()["users"] == 5


def test_the_others_keep_their_lists_and_the_forgotten_one_is_a_stranger(closed):
    before = {user: Recommender(closed).for_user(f"canary-{user}", 3) for user in range(6)}
    forget(closed, "canary-2")
    served = Recommender(closed)
    for user in (0, 1, 3, 4, 5):
        assert served.for_user(f"canary-{user}", 3) == before[user]
        assert before[user].how == "list"
    assert (before[2].how, served.for_user("canary-2", 3).how) == ("list", "popular")
    (file,) = (closed / "state" / "models").glob("*/lists.safetensors")
    assert len(decode(file.read_bytes())["lists"]) == 5


def test_no_later_intake_takes_the_user_in(closed):
    """The source still has the rows; the control: without the remembered hash they come back."""
    version = forget(closed, " canary-2 ")["version"]
    report = take_in_folder(closed)
    assert (report.version, report.users, report.filtered) == (version, 5, {"forgotten": 5})
    file = closed / "state" / "forgotten"
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"canary" not in file.read_bytes()
    file.unlink()
    assert take_in_folder(closed).users == 6


def test_two_institutions_hash_an_id_differently(tmp_path):
    first, second = Forgotten(tmp_path), Forgotten(tmp_path / "other")
    assert first._hash("u") != second._hash("u")
    (tmp_path / "other").mkdir()
    first.add("u")
    assert ("u" in Forgotten(tmp_path), "u" in second, "v" in Forgotten(tmp_path)) == (True, False, False)


def test_a_permit_for_the_data_of_before_runs_no_round_more(tmp_path):
    site = make_site(tmp_path)
    row = approved(site, recipe())
    forget(site.folder, "canary-2")
    task = Task("train", "r", 0, "p1", "ab" * 32, "cd" * 16)
    with pytest.raises(Refused, match=r"permit\.data"):
        perform(site, SimpleNamespace(level=3), "j", row, task, row.signed_permit, {})


def test_again_changes_nothing_more_and_a_stranger_is_remembered_too(closed):
    version = forget(closed, "canary-2")["version"]
    again = forget(closed, "canary-2")
    assert (again["rows"], again["versions"], again["version"]) == (0, 0, version)
    assert forget(closed, "nobody")["version"] == version
    assert len(Forgotten(closed / "state")) == 2


def test_a_crash_between_list_and_version_is_finished_by_the_next_try(closed):
    (file,) = (closed / "state" / "models").glob("*/lists.safetensors")
    lists = decode(file.read_bytes())
    kept = np.delete(lists["lists"], 2, axis=0)
    file.write_bytes(encode({**lists, "lists": kept}))
    forget(closed, "canary-2")
    np.testing.assert_array_equal(decode(file.read_bytes())["lists"], kept)
    facts = json.loads((file.parent / "model.json").read_text())
    assert facts["data_version"] == Store.open(closed / "state").version


def test_the_receipt_is_in_the_log_without_the_id(closed):
    said = CliRunner().invoke(cli, ["forget", str(closed), "--user", "canary-2", "--json", "-"])
    assert said.exit_code == 0, said.output
    receipt = json.loads(said.output)
    intent, done = read(closed, "forget")
    assert (intent["outcome"], done["outcome"], done["seq"]) == ("intent", "done", receipt["event"])
    assert done["detail"] == {key: value for key, value in receipt.items() if key != "event"}
    assert "canary" not in "".join(map(str, read(closed)))
    assert verify(closed).verdict == "ok"


def test_a_running_site_and_no_id_and_the_only_user_are_refused(closed):
    with (closed / "state" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(WrongInput, match="site stop"):
            forget(closed, "canary-2")
    with pytest.raises(WrongInput, match="no user id"):
        forget(closed, " ")
    for user in range(5):
        forget(closed, f"canary-{user}")
    with pytest.raises(WrongInput, match="only user"):
        forget(closed, "canary-5")
    (closed / "data" / "ratings.csv").write_text("user,item,rating,timestamp\ncanary-0,film-1,4,1\n")
    with pytest.raises(DataError, match="forgotten 1"):
        take_in_folder(closed)
