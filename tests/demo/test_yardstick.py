"""The demo says whether its centralised yardstick gives ML-100K's known figures; test_figures.py measures them."""

from __future__ import annotations

import pytest

from fedrec.demo.table import ANCHOR, in_words, yardstick

RIGHT = {"p1_hr@10": 0.1895, "p1_ndcg@10": 0.111, "p3_ndcg@10": 0.2705}  # off by 0.3, 0 and 0.2 %


def table(**changes: float) -> list[dict[str, object]]:
    row = {"model": "default", "institution": "all", **RIGHT}
    wrong = dict.fromkeys(ANCHOR, 0.5)  # of rows that are not the yardstick
    return [
        {**row, **wrong, "scope": "federated"},
        {**row, **wrong, "model": "itemcf", "scope": "centralised"},
        {**row, "scope": "centralised"} | changes,
    ]


def test_the_known_figures_are_said_to_be_right():
    known = yardstick(table())
    assert known == {"model": "default", "anchor": ANCHOR, "found": RIGHT, "within_1_percent": True}
    assert in_words(known).startswith("the yardstick is right")
    assert "p1_ndcg@10 0.1110 (0.111)" in in_words(known)


@pytest.mark.parametrize("figure", ANCHOR)
@pytest.mark.parametrize("factor", [0.985, 1.015])
def test_one_wrong_figure_is_said_out_loud(figure, factor):
    known = yardstick(table(**{figure: ANCHOR[figure] * factor}))
    assert known["within_1_percent"] is False
    assert "THE YARDSTICK IS WRONG" in in_words(known)
    assert "\n" not in in_words(known)
