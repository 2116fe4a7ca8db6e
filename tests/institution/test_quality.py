"""The quality report: figures worked out by hand, the score's formula, drift, and a page without scripts."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from small_site import ITEMS, approved, ended, recipe, sent, task, train
from source_files import CATALOGUE, SECRET, schema

from fedrec.cli.main import cli
from fedrec.core.interactions import Interactions
from fedrec.institution import quality
from fedrec.institution.intake import take_in, take_in_folder
from fedrec.institution.quality_page import page
from fedrec.institution.store import Store, read_rows

HEAD = "user,item,rating,timestamp\n"


def taken(tmp_path, text, catalogue=CATALOGUE):
    (tmp_path / "r.csv").write_text(HEAD + text)
    return take_in(tmp_path / "r.csv", schema(), catalogue, tmp_path / "state")


def interactions(users, items, n_items=4, rating=None, time=None):
    rating = np.ones(len(users)) if rating is None else np.array(rating)
    time = None if time is None else np.array(time, dtype=np.int64)
    return Interactions(
        np.array(users, np.int32), np.array(items, np.int32), rating.astype(np.float32), time, max(users) + 1, n_items
    )


def measured(rows, items=None, popularity=None):
    return quality.measure(
        rows, rows_in=len(rows), rejected=0, conflicts=0, missing={}, items=items, popularity=popularity, drift=None
    )


def test_the_five_parts_and_the_score_by_hand(tmp_path):
    # 10 rows x 4 columns; 2 empty cells, both in rejected rows; 1 rejected for its item: 3 rejected, 7 good;
    # u has a twice with another rating: 1 conflict; kept are u: a b c d and one more user's two
    text = "u,a,3,1\nu,a,4,2\nu,b,3,3\nu,c,3,4\nu,d,3,5\nv,a,3,1\nv,b,3,2\n,a,3,1\nw,a,,1\nw,zz,3,1\n"
    found = taken(tmp_path, text).quality
    assert found["parts"] == pytest.approx(
        {"complete": 38 / 40, "valid": 7 / 10, "consistent": 6 / 7, "supported": 0.0, "even": 1.0}
    )
    assert found["score"] == 0.0  # no user has five rows
    assert found["missing"] == {"user": 0.1, "item": 0.0, "rating": 0.1, "timestamp": 0.0}
    parts = {"complete": 0.95, "valid": 0.7, "consistent": 6 / 7, "supported": 0.5, "even": 1.0}
    assert quality.score(parts) == pytest.approx((0.95 * 0.7 * 6 / 7 * 0.5) ** 0.2)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=24, unique=True), st.data())
def test_every_report_is_json_with_a_score_from_0_to_1(rows, data):
    users = np.unique([u for u, _ in rows], return_inverse=True)[1]
    order = np.argsort(users, kind="stable")
    time = data.draw(st.one_of(st.none(), st.lists(st.integers(0, 4 * 10**9), min_size=len(rows), max_size=len(rows))))
    found = measured(interactions(users[order].tolist(), [rows[n][1] for n in order], time=time))
    assert 0 <= found["score"] <= 1
    json.dumps(found, allow_nan=False)


def test_a_better_part_never_lowers_the_score():
    parts = dict.fromkeys(quality.PARTS, 0.8)
    for name in quality.PARTS:
        assert quality.score(parts | {name: 0.9}) > quality.score(parts)
    assert quality.score(dict.fromkeys(quality.PARTS, 1.0)) == 1.0


def test_an_outlier_has_more_than_ten_times_the_median_users_rows():
    users, items = [0] * 11 + [1, 2], [*range(11), 0, 0]
    found = measured(interactions(users, items, 11))  # median 1: eleven is more than ten times as many
    assert (found["outlier_users"], found["rows_of_outlier_users"]) == (1, 11)
    assert found["parts"]["even"] == pytest.approx(2 / 13)
    assert measured(interactions(users[1:], items[1:], 11))["outlier_users"] == 0  # ten is not
    assert found["rows_per_user"] == {"min": 1, "median": 1.0, "max": 11, "powers_of_two": [2, 0, 0, 1]}


def test_diversity_is_the_number_of_equally_popular_items_that_would_be_as_diverse():
    assert quality.effective(np.array([5, 5, 5, 5, 0])) == pytest.approx(4)
    assert quality.effective(np.array([9, 0])) == 1
    # shares 3/4 and 1/4: exp(0.75 ln(4/3) + 0.25 ln 4)
    assert quality.effective(np.array([3, 1])) == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))


def test_categories_count_once_for_each_row_and_tag():
    items = pa.table({
        "genre": pa.array([["war"], ["war", "love"], [], None], pa.list_(pa.string())),
        "kind": pa.array(["film", None, "series", "film"]),
        "year": [1.0, 2.0, 3.0, 4.0],
    })  # fmt: skip
    found = measured(interactions([0, 0, 0, 1], [0, 1, 2, 0]), items)["diversity"]["effective_categories"]
    assert set(found) == {"genre", "kind"}  # a number is no category
    assert found["genre"] == pytest.approx(quality.effective(np.array([3, 1])))  # war: 2 rows of a, 1 of b; love: b
    assert found["kind"] == pytest.approx(quality.effective(np.array([2, 1])))


def test_the_distance_to_the_consortium_is_the_share_that_would_have_to_move():
    rows = interactions([0, 0, 1, 1], [0, 1, 0, 1])  # half and half
    far = measured(rows, popularity=np.array([1.0, 0, 0, 1]))["diversity"]["distance_to_consortium"]
    assert far == pytest.approx(0.5)
    for none in (None, np.zeros(4), np.ones(3)):
        assert measured(rows, popularity=none)["diversity"]["distance_to_consortium"] is None


def test_ratings_and_months_are_counted():
    rows = interactions([0, 0, 0], [0, 1, 2], rating=[1, 5, 5], time=[0, 31 * 86400, 31 * 86400])
    found = measured(rows)
    assert found["ratings"] == {"from": [1.0, 5.0], "rows": [1, 2]}
    assert found["months"] == {"from": ["1970-01", "1970-02"], "rows": [1, 2]}
    many = measured(interactions([0] * 40, range(40), 40, rating=range(40), time=[n * 10**8 // 2 for n in range(40)]))
    assert (len(many["ratings"]["from"]), sum(many["ratings"]["rows"])) == (20, 40)
    assert many["months"]["from"][0] == "1970"  # 61 years, by year
    assert measured(interactions([0], [0]))["months"] is None


def test_drift_compares_with_the_version_before_by_ids_and_not_by_indices(tmp_path):
    first = taken(tmp_path, "u,a,3,1\nu,b,3,2\nv,a,3,1\n")
    assert (first.previous, first.quality["drift"]) == (None, None)
    # u, b is gone; "a" comes before u and v, so every index moves; 2 of 4 rows and 1 of 3 users are new
    second = taken(tmp_path, "u,a,5,1\nv,a,3,1\nv,c,3,2\na,d,3,1\n")
    assert second.previous == first.version
    assert second.quality["drift"] == {
        "since": first.version,
        "new_rows": 0.5,
        "gone_rows": pytest.approx(1 / 3),
        "new_users": pytest.approx(1 / 3),
        "popularity": pytest.approx(0.5),  # a: 2/3 to 2/4, b: 1/3 to 0, c and d: 0 to 1/4 each
    }
    again = taken(tmp_path, "u,a,5,1\nv,a,3,1\nv,c,3,2\na,d,3,1\n")  # a restart of the site
    assert again.as_dict() == second.as_dict() == Store.open(tmp_path / "state").report()


def test_drift_over_another_catalogue_tells_about_users_only(tmp_path):
    taken(tmp_path, "u,a,3,1\n")
    found = taken(tmp_path, "u,a,3,1\nv,a,3,1\n", ("b", "a")).quality["drift"]
    assert (found["new_users"], found["new_rows"], found["popularity"]) == (0.5, None, None)


def test_the_report_of_a_version_is_the_last_intakes(tmp_path):
    taken(tmp_path, "u,a,3,1\n")
    assert taken(tmp_path, "u,a,3,1\nu,zz,3,1\n").version == taken(tmp_path, "u,a,3,1\nu,zz,3,1\n").version
    assert Store.open(tmp_path / "state").report()["rejected"]["unknown_item"] == 1


def test_the_distance_uses_the_model_that_is_published_here(site, jobs):
    row = approved(site, recipe("popularity"))
    assert train(site, jobs, row)["status"] == "done"
    counts = {"counts": np.array([1, 0, 0, 0, 0, 0, 0, 0], np.float32)}
    assert ended(site, jobs, row, task(sent(site, row, counts), "publish"))["status"] == "done"
    report = take_in_folder(site.folder)
    # 30 rows; film 0 is touched by users 0, 4 and 5
    assert report.quality["diversity"]["distance_to_consortium"] == pytest.approx(1 - 3 / 30)
    assert "distance to the consortium's popularity 0.900" in report.text()


def test_training_reads_the_mapped_file_and_not_a_copy(site):
    path = site.store.rows_path
    with pa.memory_map(str(path)) as file:
        buffer = file.read_buffer()
        rows = read_rows(buffer)
        for column in (rows.user, rows.item, rows.rating, rows.time):
            start = column.__array_interface__["data"][0]
            assert buffer.address <= start < buffer.address + buffer.size
            assert not column.flags.writeable


# the page


def test_the_page_is_one_file_without_script_or_link_and_names_no_id(tmp_path):
    first = taken(tmp_path, f"{SECRET},a,3,1\n")
    report = taken(tmp_path, f"{SECRET},a,3,1\n{SECRET}-2,b,4,90000000\n,a,3,1\n").as_dict()
    text = page("A & <b>B</b>", report)
    assert "A &amp; &lt;b&gt;B&lt;/b&gt;" in text
    assert "<b>" not in text
    assert SECRET not in text
    assert not re.search(r"<script|<link|<img|<iframe|\son\w+=|javascript:|url\(http|@import", text, re.IGNORECASE)
    assert not re.search(r"""(?:src|href)=(?!"#)""", text)
    assert f"Since version {first.version}" in text
    assert page("A & <b>B</b>", report) == text  # the same report, the same bytes


def test_the_pages_plots_are_svg_with_their_numbers_as_text(tmp_path):
    text = page("T", taken(tmp_path, "u,a,3,1\nu,b,4,2\nv,a,3,3\n").as_dict())
    plots = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    labels = [ET.fromstring(plot).get("aria-label") for plot in plots]
    assert labels == [
        "Users by number of rows. 1: 1; 2–3: 1",
        "Items by number of rows. 1: 1; 2–3: 1",
        "Rows by rating. 3: 2; 4: 1",
        "Rows by time. 1970-01: 3",
    ]


def test_the_commands_give_the_report_as_text_json_and_page(site, tmp_path):
    run = CliRunner()
    checked = run.invoke(cli, ["site", "check", str(site.folder), "--json", "-"])
    data = json.loads(checked.stdout)["data"]
    assert data["quality"]["score"] == 1.0
    assert data["quality"]["diversity"]["effective_items"] == pytest.approx(7.8, abs=0.1)  # 3 4 4 4 4 4 4 3 of 30
    shown = run.invoke(cli, ["site", "report", str(site.folder), "--html", str(tmp_path / "r.html")])
    assert shown.exit_code == 0
    assert "quality 1.000: complete 1.000, valid 1.000" in shown.stdout
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert len(ITEMS) == data["items_in_catalogue"]
