"""The table [privacy]: what it may say, and that it stands in the plan's text."""

from __future__ import annotations

import pytest

from fedrec import models
from fedrec.errors import Refused
from fedrec.exchange.plan import PlanText
from fedrec.exchange.privacy import Privacy
from fedrec.scientist.plan import Plan

EASE = models.create("ease", {})


@pytest.mark.parametrize(
    "said", [Privacy("secure"), Privacy(epsilon=4.0), Privacy("ckks"), Privacy("secure", epsilon=1.0, delta=1e-6)]
)
def test_privacy_stands_in_the_plan_s_text_and_is_read_from_it(said):
    plan = Plan(model=models.Popularity(clip=1.0), privacy=said)
    assert "[privacy]" in plan.text
    assert Plan.from_text(plan.text).privacy == said
    assert Plan.from_text(plan.text).fingerprint == plan.fingerprint


def test_a_plan_without_privacy_has_no_such_table():
    plain = Plan(model=EASE)
    assert "[privacy]" not in plain.text
    assert Plan(model=EASE, privacy=Privacy()).text == plain.text
    assert Plan.from_text(plain.text).privacy is None


@pytest.mark.parametrize(
    "table",
    [
        'sum = "none"', "epsilon = 0.0", "epsilon = 101.0", 'epsilon = "4"', "epsilon = true", 'sum = "plain"',
        "delta = 0.00001", "epsilon = 1.0\ndelta = 0.5", 'sum = "secure"\nnoise = 1.0', "sigma = 3.0",
    ],
)  # fmt: skip
def test_what_is_no_privacy_is_refused(table):
    text = Plan(model=EASE).text.replace("[model]", f"[privacy]\n{table}\n\n[model]")
    with pytest.raises(Refused) as refused:
        PlanText.parse(text)
    assert refused.value.code == "request.form"
