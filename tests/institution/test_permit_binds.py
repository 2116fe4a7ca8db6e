"""What binds a permit beside its own words: whom and what it was signed for, and the site's caps of then and today."""

from __future__ import annotations

from datetime import timedelta

import pytest
from test_permit import BOUND, HERE, KEY, NOW, answered, made, row, task

from fedrec.config import Limits
from fedrec.errors import Refused
from fedrec.exchange.passport import sign
from fedrec.institution.permit import check, stamp, stricter


@pytest.mark.parametrize("name", BOUND)
def test_a_permit_that_the_site_signed_for_another_request_person_site_or_consortium_is_refused(name):
    """The control is the test before: the same permit, unchanged, lets the task run."""
    with pytest.raises(Refused, match=rf"permit\.other: the permit is for another {name}"):
        check(row(sign({**made(), name: "other"}, KEY)), stamp(NOW), HERE)


LIMITS = {"megabytes": (8, 64), "minutes": (1, 10), "memory_mb": (512, 4096), "min_users_per_row": (5, 1)}
LIMITS |= {"jail_level": (3, 2), "tell_errors": (False, True)}


@pytest.mark.parametrize("name", LIMITS)
def test_of_the_limits_of_then_and_of_today_the_stricter_one_holds(name):
    strict, loose = LIMITS[name]
    for then, today, expected in ((strict, loose, strict), (loose, strict, strict), (loose, loose, loose)):
        permit = made(caps=Limits(**{name: then}))
        assert getattr(stricter(permit, Limits(**{name: today})), name) == expected


def test_a_cap_lowered_after_the_approval_binds_and_a_raised_one_does_not_loosen():
    given = sign(made(), KEY)  # 12 train and 8 evaluate tasks, 30 days
    trained = [("train", 0, "p1", "done")]
    for wanted, used, low, code in (
        (task(), {"train": 2}, Limits(train=2), "permit.rounds"),
        (task("evaluate"), {"evaluate": 2}, Limits(evaluate=2), "permit.rounds"),
        (task("evaluate"), {}, Limits(evaluate=0), "permit.kind"),
    ):
        assert answered(given, "approved", NOW, wanted, used, trained, low) == code
        assert answered(given, "approved", NOW, wanted, used, trained) == ""
    later = NOW + timedelta(days=3)
    assert answered(given, "approved", later, task(), {}, [], Limits(days=3)) == "permit.expired"
    assert answered(given, "approved", later - timedelta(seconds=1), task(), {}, [], Limits(days=3)) == ""
    assert answered(given, "approved", later, task(), {"train": 12}, [], Limits(train=10**6)) == "permit.rounds"
    assert answered(given, "approved", NOW + timedelta(days=30), task(), {}, [], Limits(days=999)) == "permit.expired"


def test_an_evaluation_is_answered_once_per_round_and_protocol():
    given, trained = sign(made(), KEY), [("train", 0, "p1", "done")]
    assert answered(given, "approved", NOW, task("evaluate"), {}, trained) == ""
    again = [*trained, ("evaluate", 0, "p1", "done")]
    assert answered(given, "approved", NOW, task("evaluate"), {}, again) == "permit.evaluate"
