"""PySyft's own client, as `sy.login` gives it, does an owner's and a scientist's work at a site."""

from __future__ import annotations

import json
import secrets

import pytest
import real_sites
from real_sites import ADA_PASSWORD, fresh, function_of

from fedrec.demo.sites import SCIENTIST, fedrec
from fedrec.errors import Refused
from fedrec.exchange.request import FORM, function_name

pytestmark = pytest.mark.sites


@pytest.fixture
def ada(plain):
    return plain(SCIENTIST, ADA_PASSWORD)


@pytest.fixture
def owner(plain, aurora):
    return plain(aurora.owner, aurora.owner_password)


@pytest.fixture(scope="module")
def here(aurora):
    """Our own client's login at aurora, for what is not PySyft's."""
    return real_sites.login(aurora, SCIENTIST, ADA_PASSWORD)


def request_of(owner, request):
    """The request as the owner's client lists it."""
    return next(item for item in owner.requests if item.id.no_dash == request)


def shown(site, request):
    return json.loads(fedrec(["requests", "show", str(site.folder), request, "--json", "-"]))


def decide(site, *arguments):
    """An owner's `fedrec requests` on the command line."""
    fedrec(["requests", *arguments], FEDREC_USER=site.owner, FEDREC_PASSWORD=site.owner_password)


def test_approve_from_a_plain_client_gives_the_permit_of_the_command_line(here, owner, aurora):
    plans = [fresh(runs=5, evaluate=True, publish=True), fresh(runs=5, evaluate=True, publish=True)]
    ids = [real_sites.submit_one(here, plan) for plan in plans]
    request_of(owner, ids[0]).approve(rounds=3, hours="0-24", until="2090-01-01T00:00:00Z")
    decide(
        aurora,
        "approve",
        str(aurora.folder),
        ids[1],
        "--rounds",
        "3",
        "--hours",
        "0-24",
        "--until",
        "2090-01-01T00:00:00Z",
    )
    first, second = (shown(aurora, request) for request in ids)
    own = {"id", "request", "fingerprint", "purpose", "not_before", "not_after", "approved_at", "signature"}
    assert list(first["permit"]) == list(second["permit"])
    assert {k: v for k, v in first["permit"].items() if k not in own} == {
        k: v for k, v in second["permit"].items() if k not in own
    }
    # 5 runs of 1 round asked, 3 given; p1 evaluated twice a run; published once a run
    assert first["permit"]["tasks"] == {"train": 3, "evaluate": 10, "publish": 5}
    assert first["permit"]["approver"] == aurora.owner
    assert (
        (first["status"], first["decided_by"]) == (second["status"], second["decided_by"]) == ("approved", aurora.owner)
    )


def test_deny_from_a_plain_client_refuses_with_the_words_of_the_command_line(here, owner, aurora):
    plans = [fresh(), fresh()]
    ids = [real_sites.submit_one(here, plan) for plan in plans]
    request_of(owner, ids[0]).deny("we sell this list ourselves")
    decide(aurora, "deny", str(aurora.folder), ids[1], "--reason", "we sell this list ourselves")
    said = []
    for plan in plans:
        with pytest.raises(Refused) as refusal:
            here.call(function_name(plan.text, plan.spec.name), {})
        said.append(str(refusal.value))
    assert said[0] == said[1]
    assert said[0] == (
        "permit.denied: the data owner denied this plan: we sell this list ourselves. Talk to the owner or submit another plan"
    )
    assert {shown(aurora, request)["status"] for request in ids} == {"denied"}


def test_a_wrong_limit_from_a_plain_client_is_refused_and_leaves_the_request_waiting(here, owner, aurora):
    import syft as sy

    request = real_sites.submit_one(here, fresh())
    for limits, reason in (
        ({"rounds": 0}, "rounds is a whole number from 1"),
        ({"rounds": "10"}, "rounds is a whole number from 1"),
        ({"epsilon": 1.0}, "this plan has no differential privacy"),
        ({"megabytes": 3}, "unknown limit megabytes"),
    ):
        with pytest.raises(sy.SyftException, match=f"permit.limit: {reason}"):
            request_of(owner, request).approve(**limits)
    with pytest.raises(sy.SyftException, match=r"request.reason: a denial needs a reason\. Say why"):
        request_of(owner, request).deny(" ")
    assert shown(aurora, request)["status"] == "waiting"


def test_a_plain_scientist_reads_the_card_and_the_mock_but_not_the_handle(ada, aurora):
    (dataset,) = ada.datasets
    assert dataset.name == "aurora"
    assert "Aurora" in dataset.description.text
    mock = dataset.assets[0].mock
    assert list(mock.columns) == ["user", "item", "rating", "timestamp"]
    assert len(mock) == 400
    assert mock["user"].str.startswith("mock-user-").all()
    assert dataset.assets[0].data is None  # PySyft prints that he has no access


def test_a_plain_scientist_sends_the_form_and_calls_the_approved_function(ada, owner, aurora, federation):
    import syft as sy

    plan = fresh(runs=2)
    request = ada.code.request_code_execution(function_of(ada, plan), reason=plan.purpose)
    function = function_name(plan.text, plan.spec.name)
    assert request_of(owner, request.id.no_dash).code.raw_code == real_form(plan)
    with pytest.raises(sy.SyftException, match=r"permit\.missing: this plan waits for the data owner's approval"):
        getattr(ada.code, function)(task={})
    request_of(owner, request.id.no_dash).approve()
    ada.refresh()
    answer = getattr(ada.code, function)(task={"kind": "train"}).get()
    assert (answer["status"], answer["code"]) == ("refused", "task.form")
    here = real_sites.login(
        aurora, SCIENTIST, ADA_PASSWORD
    )  # tensors go by the site's own routes, for plain clients too
    base = real_sites.put(here, request.id.no_dash, plan.built.init(federation.n_items, 0).tensors)
    task = {"kind": "train", "run": "plain", "round": 0, "protocol": "p1", "base": base, "nonce": secrets.token_hex(16)}
    answer = real_sites.finished(here, request.id.no_dash, getattr(ada.code, function)(task=task).get())
    assert answer["status"] == "done", answer
    assert answer["passport"]["site"] == "aurora"


def test_another_function_form_is_refused_with_the_form_to_use(ada):
    import syft as sy

    @sy.syft_function(
        name="train_on_rows",
        input_policy=sy.MixedInputPolicy(
            client=ada,
            site=sy.service.policy.policy.CreatePolicyRuleConstant(val=ada.api.services.fedrec.round),
            task=dict,
        ),
    )
    def train_on_rows(site, task):
        return site(plan="ease", task=task)

    with pytest.raises(sy.SyftException) as refusal:
        ada.code.request_code_execution(train_on_rows, reason="quick look")
    text = str(refusal.value.public_message)
    assert text.startswith("request.form: the function is not in the one allowed form. Use this form:")
    assert FORM in text


def real_form(plan):
    return f'def {function_name(plan.text, plan.spec.name)}(site, task):\n    plan = r"""{plan.text}"""\n    return site(plan=plan, task=task)\n'
