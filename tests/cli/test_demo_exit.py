"""What `fedrec demo` ends with when a log of it does not stand."""

from __future__ import annotations

import pytest

from fedrec.cli.demo import faults

GOOD = {"site": "a", "verdict": "ok", "events": 3, "witnessed": 3, "gaps": []}


@pytest.mark.parametrize(
    "bad", [{"verdict": "tampered"}, {"verdict": "incomplete-tail"}, {"gaps": [{"kind": "differs"}]}]
)
def test_a_log_that_does_not_verify_or_lacks_an_act_is_a_fault_of_the_demo(bad):
    assert faults({"audit": [GOOD, {**GOOD, "site": "b"}]}) == []
    assert faults({"audit": [GOOD, {**GOOD, "site": "b", **bad}]}) == ["b"]
