"""What an owner decides holds at the site, whichever client calls: ours, PySyft's own, or bytes signed by hand."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import real_sites
from real_sites import ADA_PASSWORD, approve_one, events, finished, fresh, raw, run_task, text_of

from fedrec.demo.sites import SCIENTIST
from fedrec.errors import Refused
from fedrec.scientist.runs import Run

pytestmark = pytest.mark.sites

USED_UP = ("refused", "permit.rounds", "all 3 train tasks of the permit are used", "Ask for a new permit")
SLOW = """
class Slow:
    def __init__(self, seconds=1.0):
        self.seconds = seconds

    def init(self, n_items, seed):
        return {"v": np.zeros(n_items)}

    def fit_site(self, rows, shared, private):
        import time
        time.sleep(self.seconds)
        return {"v": np.ones(rows.n_items)}, {}

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))
"""


@pytest.fixture(scope="module")
def ada(federation):
    return federation._sites["aurora"]


@pytest.fixture(scope="module")
def owner(owners):
    return owners["aurora"]


@pytest.fixture
def three_of_nine(ada, owner, federation):
    """A plan that asks for nine train tasks and got three."""
    return approve_one(ada, owner, fresh(runs=9, evaluate=True), federation.n_items, rounds=3)


def trainings(site, approved):
    """How many trainings of a request the audit log has."""
    return len(events(site, act="train", request=approved.id, outcome="done"))


def said(answer):
    return tuple(answer[key] for key in ("status", "code", "reason", "next_step"))


def test_the_limit_on_rounds_holds_for_our_own_client(ada, aurora, three_of_nine):
    answers = [run_task(ada, three_of_nine) for _ in range(4)]
    assert [answer["status"] for answer in answers] == ["done", "done", "done", "refused"]
    assert said(answers[3]) == USED_UP
    assert trainings(aurora, three_of_nine) == 3


def test_the_limit_on_rounds_holds_for_pysyfts_own_client(plain, ada, aurora, three_of_nine):
    client = plain(SCIENTIST, ADA_PASSWORD)
    client.refresh()
    answers = [
        finished(ada, three_of_nine.id, getattr(client.code, three_of_nine.function)(task=three_of_nine.task()).get())
        for _ in range(4)
    ]
    assert [answer["status"] for answer in answers] == ["done", "done", "done", "refused"]
    assert said(answers[3]) == USED_UP
    assert trainings(aurora, three_of_nine) == 3


def test_the_limit_on_rounds_holds_for_calls_signed_by_hand_and_sent_all_at_once(ada, aurora, three_of_nine):
    import syft as sy
    from syft.service.action.action_object import convert_to_pointers

    requests = ada.client.requests
    code = next(item for item in requests if item.id.no_dash == three_of_nine.id).changes[0].linked_user_code.object_uid
    uid = sy.UID(code.no_dash)

    def call(_):
        task = {"task": three_of_nine.task()}
        _, sent = convert_to_pointers(api=ada.client.api, server_uid=ada.client.id, args=[], kwargs=task)
        return text_of(raw(ada, "code.call", uid=uid, **sent))

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(call, range(8)))
    assert not [outcome for outcome in outcomes if outcome.startswith("gate.")]
    deadline = time.monotonic() + 20
    while trainings(aurora, three_of_nine) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    refused = events(aurora, act="train", request=three_of_nine.id, outcome="permit.rounds")
    assert (trainings(aurora, three_of_nine), len(refused)) == (3, 5)


def test_the_same_round_sent_twice_is_trained_once_and_answered_alike(ada, aurora, three_of_nine):
    task = three_of_nine.task()
    first = run_task(ada, three_of_nine, **task)
    again = run_task(ada, three_of_nine, **task)
    assert first == again
    assert first["status"] == "done"
    assert trainings(aurora, three_of_nine) == 1
    other = run_task(ada, three_of_nine, run="other")  # a new task is a new training
    assert other["passport"]["nonce"] != first["passport"]["nonce"]
    assert trainings(aurora, three_of_nine) == 2


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"round": 5}, "permit.protocol"),
        ({"protocol": "all"}, "permit.protocol"),
        ({"kind": "evaluate"}, "permit.protocol"),
        ({"kind": "publish"}, "permit.kind"),
        ({"base": "0" * 64}, "task.base"),
        ({"round": -1}, "task.form"),
        ({"round": True}, "task.form"),
        ({"round": "0"}, "task.form"),
        ({"nonce": "short"}, "task.form"),
        ({"run": "../../x"}, "task.form"),
        ({"epsilon": 1.0}, "task.form"),
    ],
)
def test_a_task_outside_the_permit_is_refused(changes, code, ada, three_of_nine):
    answer = run_task(ada, three_of_nine, **changes)
    assert (answer["status"], answer["code"]) == ("refused", code)


def test_a_model_is_evaluated_once_per_round(ada, three_of_nine):
    trained = run_task(ada, three_of_nine)
    assert trained["status"] == "done"
    first = run_task(ada, three_of_nine, kind="evaluate")
    assert {scope for scope in first["numbers"] if ":" not in scope} == {"federated", "local", "popularity"}
    assert run_task(ada, three_of_nine, kind="evaluate")["code"] in ("permit.evaluate", "task.base")


def test_a_denied_site_refuses_while_the_others_run_the_plan(federation, owners, sites):
    plan = fresh(evaluate=True)
    requests = federation.submit(plan)
    for name in ("aurora", "borealis", "cinema-lumen"):
        owners[name].approve(requests.ids[name])
    owners["delphi"].undo(requests.ids["delphi"], "not our users")
    table = requests.wait(10, show=lambda _: None)
    assert dict(zip(table["site"], table["status"], strict=True)) == {
        "aurora": "approved", "borealis": "approved", "cinema-lumen": "approved", "delphi": "denied",
    }  # fmt: skip
    run = federation.train(plan)
    assert run.log[0]["sites"] == ["aurora", "borealis", "cinema-lumen"]
    with pytest.raises(Refused) as refusal:
        federation.ask("delphi", plan)
    assert str(refusal.value) == (
        "permit.denied: the data owner denied this plan: not our users. Talk to the owner or submit another plan"
    )
    base = secrets.token_bytes(8)
    name = real_sites.sha256(base)
    status, _ = real_sites.own_route(
        federation._sites["delphi"], "PUT", f"/fedrec/v1/blobs/{name}", base, permit=requests.ids["delphi"]
    )
    assert status == 403
    assert not events(sites.all["delphi"], act="train", request=requests.ids["delphi"])
    assert len(events(sites.all["aurora"], act="train", request=requests.ids["aurora"], outcome="done")) == 1


def test_a_plan_that_nobody_approved_does_not_start(federation):
    plan = fresh()
    federation.submit(plan)
    with pytest.raises(Refused, match=r"permit\.missing: no institution has approved this plan"):
        federation.train(plan)


@pytest.mark.parametrize("revoked", [True, False])
def test_a_revoke_ends_the_running_job_within_five_seconds_and_nothing_leaves(revoked, ada, owner, aurora, federation):
    plan = fresh(code=SLOW, settings={"seconds": 60.0 if revoked else 1.5}, name="slow", rounds=1)
    approved = approve_one(ada, owner, plan, federation.n_items)
    answer = ada.call(approved.function, approved.task())
    assert answer["status"] == "running"
    if revoked:
        owner.undo(approved.id, "stop at once")
        began = time.monotonic()
        while not (ended := events(aurora, act="train", request=approved.id)[1:]):
            assert time.monotonic() - began < 5
            time.sleep(0.05)
        assert [event["outcome"] for event in ended] == ["jail.stopped"]
        assert finished(ada, approved.id, answer)["code"] == "permit.revoked"
        assert not list((aurora.folder / "state" / "blobs").rglob(approved.id))
    else:  # the control: the very plan goes through when nobody revokes it
        assert finished(ada, approved.id, answer)["status"] == "done"
        assert list((aurora.folder / "state" / "blobs" / "out" / approved.id).iterdir())
    assert not list((aurora.folder / "state" / "jobs").iterdir())


def test_a_revoke_between_two_rounds_stops_the_run_at_the_last_committed_round(federation, owners, tmp_path):
    plan = fresh(code=SLOW, settings={"seconds": 0.0}, name="slow", rounds=3)
    requests = real_sites.approved(federation, owners, plan)
    run = Run.start(plan, federation, folder=tmp_path)

    def revoke(done, total):
        if done.number == 0:
            owners["borealis"].undo(requests.ids["borealis"], "new management")

    with pytest.raises(Refused) as refusal:
        run.finish(revoke)
    text = str(refusal.value)
    assert text.startswith(
        "permit.revoked: borealis: the data owner revoked this permit: new management (round 1 of 3; "
    )
    assert f"Resume with fedrec run --resume {run.folder}" in text
    assert [line["round"] for line in run.log] == [0]
    again = Run.load(federation, run.folder)
    assert (again.resumed_from, again.log) == (1, run.log)
