"""Code that reaches a site in any other place than the plan does not run there. Source of the attacks: syft-0.9.5.md, M."""

from __future__ import annotations

import pytest
from real_sites import approve_one, events, fresh, function_of, raw, text_of

from fedrec.demo import owners
from fedrec.errors import Refused

pytestmark = pytest.mark.sites

BOTH = pytest.mark.parametrize("defence", [True, False])


def submit(here, submitted, plan):
    """Send a submission past PySyft's client; the site's answer."""
    return raw(here.ada, "code.request_code_execution", code=submitted, reason=plan.purpose)


def requests_at(here):
    """What the owner of the data sees."""
    return owners.listed(here.site)


def approve_and_call(here, answer, submitted):
    """The owner approves what he reads, then the scientist calls it; what the call ended with."""
    here.owner.approve(answer.value.id.no_dash)
    here.ada.client.refresh()
    try:
        return str(here.ada.call(submitted.func_name, {})["code"])
    except Refused as refusal:
        return str(refusal)


@BOTH
def test_code_hidden_in_the_argument_names_of_a_clean_looking_submission_does_not_run(defence, arena, tmp_path):
    here, plan, mark = arena(defence, "rebuild", "compare"), fresh(), tmp_path / "ran"
    submitted = function_of(here.ada, plan)
    submitted.input_kwargs = [f"site=site, task=task)\n    open({str(mark)!r}, 'w').close() #"]
    answer = submit(here, submitted, plan)
    if defence:
        assert text_of(answer).startswith(
            "request.form: the field input_kwargs is not the one of the form. Use this form:"
        )
        assert plan.fingerprint not in {item["fingerprint"] for item in requests_at(here)}
    else:
        shown = here.owner.client.requests
        assert next(item for item in shown if item.id == answer.value.id).code.raw_code == submitted.code  # looks clean
        approve_and_call(here, answer, submitted)
    assert mark.exists() is not defence


@BOTH
def test_the_site_compares_what_it_would_execute_before_each_call(defence, arena, tmp_path):
    here, plan, mark = arena(False, "rebuild", "" if defence else "compare"), fresh(), tmp_path / "ran"
    submitted = function_of(here.ada, plan)
    submitted.input_kwargs = [f"site=site, task=task)\n    open({str(mark)!r}, 'w').close() #"]
    answer = submit(here, submitted, plan)
    said = approve_and_call(here, answer, submitted)
    if defence:
        assert said == "request.form: the stored code is not what was approved. Tell the data owner at once"
    assert mark.exists() is not defence


@BOTH
def test_the_class_body_of_a_policy_does_not_run(defence, arena, tmp_path):
    from syft.service.policy.policy import SubmitUserPolicy

    here, plan, mark = arena(defence, "rebuild", "compare"), fresh(), tmp_path / "ran"
    submitted = function_of(here.ada, plan)
    code = (
        f"class Count(sy.CustomOutputPolicy):\n    open({str(mark)!r}, 'w').close()\n    n: int = 0\n"
        "    def __init__(self):\n        self.n = 0\n    def is_valid(self, context):\n        return True\n"
        "    def apply_to_output(self, context, outputs, update_policy=True):\n        return outputs\n"
    )
    submitted.output_policy_type = SubmitUserPolicy(code=code, class_name="Count", input_kwargs=[])
    answer = submit(here, submitted, plan)
    if defence:
        assert text_of(answer).startswith("request.form: the field output_policy_type is not the one of the form")
    else:
        approve_and_call(here, answer, submitted)
    assert mark.exists() is not defence


FIELDS = {
    "code": lambda text: text + "\n",
    "func_name": lambda name: name[:-1] + ("0" if name[-1] != "0" else "1"),
    "worker_pool_name": lambda _: "pool",
    "input_policy_init_kwargs": lambda kwargs: {key: {**rules, "more": rules["task"]} for key, rules in kwargs.items()},
    "output_policy_init_kwargs": lambda kwargs: {**kwargs, "limit": 9},
    "signature": lambda given: given.replace(parameters=[*given.parameters.values()][:1]),
}


@pytest.mark.parametrize("field", FIELDS)
@BOTH
def test_a_submission_that_differs_in_any_field_is_refused_with_the_form(defence, field, arena):
    here, plan = arena(defence, "rebuild"), fresh()
    submitted = function_of(here.ada, plan)
    setattr(submitted, field, FIELDS[field](getattr(submitted, field)))
    text = text_of(submit(here, submitted, plan))
    if defence or field == "code":  # the text itself is read before anything is built anew
        assert text.startswith("request.form: ")
        assert "return site(plan=plan, task=task)" in text
        assert here.outcome("call") == "request.form"
    else:
        assert text == "Request"


def test_a_submission_with_more_parts_than_code_and_reason_is_refused(strong):
    """The control is the test below: without the third part the same submission is taken."""
    plan = fresh()
    submitted = function_of(strong.ada, plan)
    answer = raw(strong.ada, "code.request_code_execution", code=submitted, reason="r", changes=[1])
    assert text_of(answer).startswith("request.form: the submission has other parts than code and reason")
    assert text_of(raw(strong.ada, "code.request_code_execution", "print(1)", "r")).startswith("request.form: ")


def test_an_untouched_submission_is_taken_so_the_refusals_above_mean_something(strong):
    plan = fresh()
    answer = submit(strong, function_of(strong.ada, plan), plan)
    assert text_of(answer) == "Request"
    again = submit(strong, function_of(strong.ada, plan), plan)
    assert text_of(again).startswith("request.exists: this very plan was submitted before")


CLOSED = [
    "code.submit", "code.update", "code.delete", "code.store_execution_output", "code_history.submit_version", "code_history.get",
    "project.create_project", "project.add_event", "request.submit", "request.add_changes", "request.set_tags", "policy.add",
    "output.create", "output.get_all", "api.add", "api.call", "api.call_private", "api.call_in_jobs", "api.update", "api.set_settings",
    "user.create", "user.update", "user.view", "user.delete", "settings.update", "migration.get_migration_data", "network.add_peer",
    "worker_pool.launch", "worker_image.submit", "action.np_array", "action.execute", "action.delete", "blob_storage.read",
    "blob_storage.allocate", "notifications.send", "job.restart", "sync.get_permissions", "dataset.add", "attestation.get_cpu_attestation",
]  # fmt: skip


@pytest.mark.parametrize("who", ["ada", "owner"])
@BOTH
def test_every_other_way_for_code_or_data_into_a_site_is_closed(defence, who, arena):
    here, role = arena(defence, "role"), {"ada": "scientist", "owner": "owner"}[who]
    for path in CLOSED:
        said = text_of(raw(getattr(here, who), path))
        if not defence:  # PySyft has the call; what it lacks is arguments
            assert not said.startswith("gate."), path
            continue
        assert said == f"gate.role: a {role} may not call this. Use what your role allows", path
        event = events(here.site, act="call")[-1]  # the owner of the data learns who tried what
        assert (event["role"], event["object"], event["outcome"]) == (role, path, "gate.role")


@BOTH
def test_code_cannot_be_submitted_past_the_request(defence, arena):
    here = arena(defence, "role")
    for path, kept in (("code.submit", "UserCode"), ("code_history.submit_version", "CodeHistory")):
        plan = fresh()
        said = text_of(raw(here.ada, path, code=function_of(here.ada, plan)))
        assert said.startswith("gate.role") is defence
        assert (said == kept) is not defence
        assert plan.fingerprint not in {item["fingerprint"] for item in requests_at(here)}  # and no owner would see it


@BOTH
def test_the_history_of_executions_cannot_be_forged(defence, arena):
    import syft as sy
    from syft.server.credentials import SyftVerifyKey

    here = arena(defence, "role")
    approved = approve_one(here.ada, here.owner, fresh(), here.n_items)
    request = next(item for item in here.ada.client.requests if item.id.no_dash == approved.id)
    answer = raw(
        here.bob,
        "output.create",
        user_code_id=request.changes[0].linked_user_code.object_uid,
        output_ids=[sy.UID()],
        executing_user_verify_key=SyftVerifyKey(verify_key=here.ada.key.verify_key),
    )
    assert text_of(answer).startswith("gate.role") is defence
    assert (type(getattr(answer, "value", answer)).__name__ == "ExecutionOutput") is not defence


@BOTH
def test_the_endpoint_cannot_be_called_directly(defence, arena):
    here = arena(defence, "role")
    answer = raw(here.ada, "api.call", path="fedrec.round", plan="x", task={})
    if defence:
        assert text_of(answer).startswith("gate.role: a scientist may not call this")
    else:  # it arrives at the endpoint; PySyft gives a scientist its mock side, which says no as well
        told = getattr(answer, "value", answer)
        assert dict(getattr(told, "syft_action_data", told))["reason"] == "direct calls are closed"
