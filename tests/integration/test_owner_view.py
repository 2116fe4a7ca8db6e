"""The data as a running site shows it: to PySyft's clients a card, a schema, a mock and a handle; to the owner his rows."""

from __future__ import annotations

import json

import pytest

from fedrec.demo.sites import fedrec as command
from fedrec.institution import audit
from fedrec.institution.store import Store

pytestmark = pytest.mark.sites


def test_the_card_carries_the_schema_and_the_handle_tells_the_owner_what_there_is(plain, aurora):
    (dataset,) = plain(aurora.owner, aurora.owner_password).datasets
    assert "[columns]" in dataset.description.text
    store = Store.open(aurora.folder / "state")
    handle = dataset.assets[0].data
    expected = {"version": store.version, "rows": store.n_rows, "users": store.n_users, "items": store.n_items}
    assert handle.to_dict("records") == [expected]
    assert all(str(value) in repr(handle) for value in expected.values())


def test_the_owner_looks_at_rows_of_a_running_site_and_the_sites_log_has_it(aurora):
    shown = json.loads(command(["site", "head", str(aurora.folder), "-n", "3", "--json", "-"]))
    rows, names = Store.open(aurora.folder / "state").rows(), Store.open(aurora.folder / "state").user_ids()
    assert [row["user"] for row in shown["rows"]] == [names[rows.user[place]] for place in range(3)]
    log = aurora.folder
    events = [(event["outcome"], event["detail"]) for event in audit.read(log) if event["act"] == "head"]
    assert events[-2:] == [("intent", {"rows": 3}), ("done", {"rows": 3})]
    assert audit.verify(log).verdict == "ok"
