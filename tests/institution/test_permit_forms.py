"""What a task's members, an approver's epsilon and hours may be, and how often a run is validated."""

from __future__ import annotations

import pytest
from test_permit import KEY, NOW, answered, made, task

from fedrec.config import Limits
from fedrec.errors import Refused
from fedrec.exchange.passport import sign
from fedrec.institution.permit import Task

RAW = {"kind": "train", "run": "run", "round": 0, "protocol": "p1", "base": "ef" * 32, "nonce": "0" * 32}


@pytest.mark.parametrize(
    "wrong", [{"members": "abc"}, {"members": ["a", 1]}, {"members": ["a", "a"]}, {"members": ["a"], "kind": "publish"}]
)
def test_members_are_names_of_institutions_of_a_train_task_each_once(wrong):
    assert Task.parse({**RAW, "members": ["a", "b", "c"]}).members == ("a", "b", "c")  # the control
    with pytest.raises(Refused, match=r"task\.form: .*members"):
        Task.parse(RAW | wrong)


@pytest.mark.parametrize("most", ["4", True, 0, -1.0, 101, float("nan")])
def test_an_approver_s_epsilon_is_a_number_to_100_and_only_cuts(most):
    privacy = {"epsilon": 4.0, "sum": "secure", "delta": 1e-5}
    facts = made({"privacy": privacy}, epsilon=2)
    assert (facts["epsilon"], facts["delta"]) == (2.0, 1e-5)
    assert made({"privacy": privacy}, epsilon=9.0)["epsilon"] == 4.0
    with pytest.raises(Refused, match=r"permit\.limit: epsilon is a number"):
        made({"privacy": privacy}, epsilon=most)


def test_validations_are_counted_by_run():
    permit = sign(made({"validate": 1}), KEY)
    run = [("train", 0, "p1", "done")]
    assert answered(permit, "approved", NOW, task("evaluate", 0, "validation"), {}, run) == ""
    used = [*run, ("evaluate", 0, "validation", "done")]
    assert answered(permit, "approved", NOW, task("evaluate", 0, "validation"), {}, used) == "permit.evaluate"


def test_an_approver_s_hours_lie_within_the_site_s():
    with pytest.raises(Refused, match="takes tasks in the hours 1-5 UTC only"):
        made(caps=Limits(hours="1-5"), hours="8-18")
