"""Three kills of a whole site in the middle of its work; `python benchmarks/kills.py --sites 20` does twenty."""

from __future__ import annotations

import pytest
from site_kills import site_kills

pytestmark = [pytest.mark.sites, pytest.mark.timeout(600)]
KILLS = 3


def test_kills_of_a_whole_site_lose_and_double_nothing_and_the_model_is_the_same(tmp_path):
    found = site_kills(tmp_path, KILLS)
    assert found["stories"] >= 1
    assert sum(found["cut off"].values()) >= 1
