"""What the owner may look at, with its trace in the log; and which versions of the data stay."""

from __future__ import annotations

import fcntl
import json

import pytest
from click.testing import CliRunner
from small_site import approved, make_site, recipe, submitted, train

from fedrec.cli.main import cli
from fedrec.errors import DataError, Refused, WrongInput
from fedrec.institution import audit, store, versions
from fedrec.institution.head import head, head_of
from fedrec.institution.intake import take_in_folder
from fedrec.institution.jobs import Jobs
from fedrec.institution.site import Site


def log_of(site) -> list[tuple[str, str, str]]:
    return [
        (event["act"], event["object"], event["outcome"])
        for event in audit.read(site.audit.path)
        if event["act"] != "checkpoint"
    ]


def test_the_first_rows_are_shown_and_the_log_says_so_without_an_id(tmp_path):
    site = make_site(tmp_path)
    site.close()
    shown = CliRunner().invoke(cli, ["site", "head", str(site.folder), "-n", "2"])
    assert shown.stdout.splitlines() == [
        f"data version {site.store.version}",
        "canary-0  film-0  4  1970-01-01T00:16:40Z",
        "canary-0  film-1  4  1970-01-01T00:16:41Z",
    ]
    assert log_of(site) == [("head", site.store.version, "intent"), ("head", site.store.version, "done")]
    assert [event["detail"] for event in audit.read(site.audit.path) if event["act"] == "head"] == [{"rows": 2}] * 2
    assert "canary" not in site.audit.path.read_text()
    assert audit.verify(site.audit.path).verdict == "ok"


def test_more_rows_than_there_are_shows_all_and_other_numbers_are_refused(site):
    assert len(head_of(site.audit, site.folder, site.store, 1000)["rows"]) == 30
    for wrong in (0, -1, 1001):
        with pytest.raises(WrongInput, match="1 to 1000"):
            head_of(site.audit, site.folder, site.store, wrong)
    assert len(log_of(site)) == 2


def test_nothing_is_shown_when_the_log_cannot_be_written(site, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit.os, "write", full)
    with pytest.raises(Refused, match=r"audit\.write"):
        head_of(site.audit, site.folder, site.store, 5)


def test_while_a_site_holds_the_folder_its_log_is_left_to_it(tmp_path):
    site = make_site(tmp_path)
    site.close()
    with (site.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert head(site.folder, 5) is None
        found = CliRunner().invoke(cli, ["site", "head", str(site.folder)])  # nobody answers at its socket
        assert isinstance(found.exception, WrongInput)
    assert log_of(site) == []
    assert head(site.folder, 5) is not None


def test_a_folder_without_data_has_no_head(tmp_path):
    with pytest.raises(WrongInput, match="no data"):
        head(tmp_path, 5)


# versions


def newer(site: Site, line: str = "canary-9,film-0,3,2000\n") -> Site:
    """The site after a restart with one more row."""
    file = site.folder / "data" / "ratings.csv"
    file.write_text(file.read_text() + line)
    take_in_folder(site.folder)
    return Site.open(site.folder)


def test_an_old_version_stays_while_a_permit_is_live_and_goes_after_a_revocation(site):
    row = approved(site, recipe())
    submitted(site, recipe(name="waiting"))
    again = newer(site)
    assert versions.sweep(again) == []
    again.ledger.decide(row.id, "revoked", "owner@a.example", again.now(), "no")
    assert versions.sweep(again) == [site.store.version]
    assert store.versions(again.state) == {again.store.version}
    assert log_of(again)[-2:] == [
        ("data.delete", site.store.version, "intent"),
        ("data.delete", site.store.version, "done"),
    ]
    again.close()


def test_an_expired_permit_holds_no_version_and_a_running_job_does(site, monkeypatch):
    approved(site, recipe(days=1))
    again = newer(site)
    monkeypatch.setattr(type(again), "now", lambda _: "2099-01-01T00:00:00Z")
    assert versions.needed(again) == {again.store.version}
    monkeypatch.setattr(
        type(again.ledger), "running", lambda self: [type("Job", (), {"request": self.requests()[0].id})]
    )
    assert versions.needed(again) == {again.store.version, site.store.version}
    again.close()


def test_the_version_of_a_served_model_stays(site, jail):
    jobs = Jobs(site, jail)
    row = approved(site, recipe("popularity"))
    train(site, jobs, row)
    jobs.close()
    folder = site.state / "models" / "x"
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps({"data_version": site.store.version}))
    again = newer(site)
    again.ledger.decide(row.id, "revoked", "owner@a.example", again.now(), "no")
    assert versions.sweep(again) == []
    again.close()


def test_the_version_in_use_cannot_be_deleted(site):
    with pytest.raises(DataError, match="in use"):
        store.drop(site.state, site.store.version)


def test_a_permit_for_the_old_version_never_runs_on_the_new_one(site, jail):
    """While the old rows are there they are used (test_jobs.py); when they are gone the task is refused."""
    row = approved(site, recipe("popularity"))
    again = newer(site)
    store.drop(again.state, site.store.version)
    jobs = Jobs(again, jail)
    answer = train(again, jobs, row)
    assert (answer["status"], answer["code"]) == ("refused", "permit.data")
    fresh = approved(again, recipe("popularity", name="fresh"))
    assert train(again, jobs, fresh)["passport"]["data_version"] == again.store.version  # the control
    jobs.close()
    again.close()
