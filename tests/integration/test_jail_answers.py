"""The jail over a real site, through PySyft: what own code and odd tasks say to the scientist."""

from __future__ import annotations

import json
import platform

import pytest
from real_sites import approve_one, events, fresh, run_task

from fedrec.errors import Refused

pytestmark = pytest.mark.sites

OWN = """
class Attack:
    def init(self, n_items, seed):
        return {{"v": np.zeros(n_items)}}

    def fit_site(self, rows, shared, private):
        {line}
        return {{"v": np.ones(rows.n_items)}}, {{}}

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))
"""
LINES = {
    "a type error with data": 'raise TypeError("canary " + str(rows.item[:9].tolist()))',
    "the site's key": 'open("{state}/keys/site.key").read()',
    "a connection": 'import socket; socket.socket().connect(("127.0.0.1", {port}))',
    "the end": "import os; os._exit(0)",
}


@pytest.mark.parametrize("wants", LINES)
def test_own_code_gets_nothing_and_says_nothing(wants, site, alone, its_owner):
    state, port = site.folder / "state", site.url.rpartition(":")[2]
    code = OWN.format(line=LINES[wants].replace("{state}", str(state)).replace("{port}", port))
    ada = alone._sites["solo"]
    answer = run_task(ada, approve_one(ada, its_owner["solo"], fresh(code=code, name="attack"), alone.n_items))
    assert answer["code"] == "jail.error"
    assert "canary" not in json.dumps(answer)
    assert events(site, act="train")[-1]["outcome"] == "jail.error"
    honest = approve_one(ada, its_owner["solo"], fresh(), alone.n_items)
    assert run_task(ada, honest)["status"] == "done"


@pytest.mark.parametrize("task", [{1: 2}, {"kind": ["train"]}, {"kind": None, "run": {}}, {}])
def test_a_task_of_odd_types_is_refused_by_its_form_and_not_by_an_exception(task, alone, its_owner):
    ada = alone._sites["solo"]
    approved = approve_one(ada, its_owner["solo"], fresh(), alone.n_items)
    try:
        code = ada.call(approved.function, task)["code"]
    except Refused as refusal:
        code = refusal.code
    assert code == "task.form"


def test_a_scientist_sees_python_and_packages_of_each_site(alone):
    table = alone.environment()
    assert list(table["site"]) == ["solo"]
    assert list(table["python"]) == [platform.python_version()]
    assert list(table["syft"]) == ["0.9.5"]
