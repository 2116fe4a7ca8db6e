"""A permit of encrypted sums names the shared key of the day; under another key nothing is spent and nothing begins."""

from __future__ import annotations

import pytest
from small_site import approved, make_site, recipe

from fedrec.errors import Refused
from fedrec.exchange import ckks
from fedrec.exchange.plan import PlanText
from fedrec.exchange.privacy import Privacy
from fedrec.institution.shared_key import SharedKey, key_under
from fedrec.models import Popularity
from fedrec.scientist.fetch import check_shared
from fedrec.scientist.plan import Plan


def code(call, *given):
    with pytest.raises(Refused) as refused:
        call(*given)
    return refused.value.code


def encrypted():
    text = Plan(model=Popularity(), privacy=Privacy("ckks"), name="p", purpose="P").text
    return PlanText.parse(text)


@pytest.fixture
def site(tmp_path):
    found = make_site(tmp_path)
    yield found
    found.close()


def test_a_permit_of_encrypted_sums_names_the_key_of_its_day_and_no_other_is_used_under_it(site):
    plan, had = encrypted(), SharedKey(1, ckks.make_key())
    had.save(site.state)
    permit = approved(site, plan).signed_permit
    assert permit["shared_key"] == had.id
    assert key_under(site.state, plan, permit) == had
    SharedKey(2, ckks.make_key()).save(site.state)
    assert code(key_under, site.state, plan, permit) == "ckks.other"
    (site.state / "keys" / "ckks.json").unlink()
    assert code(key_under, site.state, plan, permit) == "ckks.key"


def test_a_permit_that_was_given_before_there_was_a_key_is_of_none(site):
    plan = encrypted()
    permit = approved(site, plan).signed_permit
    assert permit["shared_key"] == ""
    SharedKey(1, ckks.make_key()).save(site.state)
    assert code(key_under, site.state, plan, permit) == "ckks.other"


def test_a_permit_of_other_plans_names_no_key_and_needs_none(site):
    SharedKey(1, ckks.make_key()).save(site.state)
    plan = recipe("popularity")
    permit = approved(site, plan).signed_permit
    assert permit["shared_key"] == ""
    assert key_under(site.state, plan, permit) is None


def test_the_centre_names_who_has_another_key_and_who_has_none():
    check_shared({"a": "1", "b": "1"})
    with pytest.raises(Refused, match=r"ckks.differ: c approved"):
        check_shared({"a": "1", "b": "1", "c": "2"})
    with pytest.raises(Refused, match=r"ckks.differ: a, b approved"):
        check_shared({"a": "", "b": ""})
