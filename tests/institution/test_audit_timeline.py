"""Packs of several institutions merged into one story: its order, clocks, and what is missing or cannot be true."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from packed_runs import copied, files
from small_site import SCIENTIST
from told import RUN, forged

from fedrec.errors import Refused
from fedrec.institution.evidence.pack import pack
from fedrec.institution.evidence.timeline import figure_of, merge, text_of
from fedrec.institution.evidence.unpack import check
from fedrec.institution.site import Site


def test_the_story_of_two_institutions_is_in_the_order_of_cause(packs):
    story = merge(packs)
    assert story["clashes"] == []
    assert story["missing"] == []
    trains = [(row["round"], row["outcome"]) for row in story["events"] if row["act"] == "train"]
    assert trains == [(number, outcome) for number in range(3) for outcome in ("intent", "intent", "done", "done")]
    for site in story["sites"]:
        numbers = [row["seq"] for row in story["events"] if row["site"] == site]
        assert numbers == sorted(numbers)
    assert [len(one["updates"]) for one in story["rounds"]] == [2, 2, 2]
    assert "Clashes\n  nothing" in text_of(story)


def shifted(folder, seconds, only=lambda event: True):
    from datetime import datetime, timedelta

    def change(event):
        if only(event):
            when = datetime.fromisoformat(event["at"]) + timedelta(seconds=seconds)
            event["at"] = when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return event

    forged(folder, change)


def packed(folder, path):
    path.write_bytes(pack(folder, RUN))
    return path


def test_a_clock_that_is_ten_minutes_ahead_is_shown_and_the_order_stays(stories, packs, tmp_path):
    folder = copied(stories[1], tmp_path)
    before = merge(packs)["clocks"][0]
    assert before["least_ms"] <= 0 <= before["most_ms"]  # they have the same clock
    shifted(folder, 600)
    story = merge([packs[0], packed(folder, tmp_path / "b.zip")])
    (clock,) = story["clocks"]
    assert (clock["least_ms"], clock["most_ms"]) == (before["least_ms"] + 600_000, before["most_ms"] + 600_000)
    assert clock["possible"]
    trains = [row["round"] for row in story["events"] if row["act"] == "train"]
    assert trains == sorted(trains)


def test_one_back_dated_event_cannot_be_true_with_any_clock(stories, packs, tmp_path):
    folder = copied(stories[1], tmp_path)
    shifted(
        folder, -3600, lambda event: event["act"] == "train" and event["round"] == 1 and event["outcome"] == "intent"
    )
    story = merge([packs[0], packed(folder, tmp_path / "b.zip")])
    assert not story["clocks"][0]["possible"]
    assert any("dated wrongly" in clash for clash in story["clashes"])


def test_counterparts_that_are_missing_are_named(stories, packs, tmp_path):
    folder = copied(stories[1], tmp_path)
    forged(folder, lambda event: event, lambda event: event["act"] not in ("evaluate", "fetch"))
    story = merge([packs[0], packed(folder, tmp_path / "b.zip")])
    assert "b has no evaluate of round 2, a has" in story["missing"]
    assert "b: nobody fetched the update of round 0" in story["missing"]
    alone = merge(packs[:1])
    assert alone["missing"] == ["no pack of b, which is a member; whether it took part, these packs do not say"]


def test_a_round_that_started_from_another_model_is_a_clash(stories, packs, tmp_path):
    def other(event):
        if event["act"] == "train" and event["round"] == 1:
            event["detail"]["base"] = "0" * 64
        return event

    folder = copied(stories[1], tmp_path)
    forged(folder, other)
    story = merge([packs[0], packed(folder, tmp_path / "b.zip")])
    assert "round 1 started from different models: a, b" in story["clashes"]


def test_a_history_rewritten_with_the_sites_key_clashes_with_what_the_other_saw(stories, packs, tmp_path):
    """Without the witness the rewritten pack is good: its owner has the key."""
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    first, second = copied(stories[0], tmp_path / "a"), copied(stories[1], tmp_path / "b")
    seen = [
        event for event in map(json.loads, files(packs[0])["events.jsonl"].splitlines()) if event["act"] == "checkpoint"
    ]
    with closing(Site.open(second)) as site:
        site.audit.event(
            SCIENTIST.email,
            "scientist",
            "witness",
            "a",
            outcome="done",
            run=RUN,
            detail={**seen[0]["detail"], "proved": False},
        )
        site.audit.checkpoint()

    def late(event):
        event["actor"] = event["actor"].replace("~", "!") if event["act"] == "fetch" else event["actor"]
        return event

    witness = packed(second, tmp_path / "b.zip")
    assert merge([packs[0], witness])["clashes"] == []
    forged(first, late)
    rewritten = packed(first, tmp_path / "a.zip")
    assert check(rewritten).verdict == "ok"
    (clash,) = merge([rewritten, witness])["clashes"]
    assert "witness-clash" in clash


def test_packs_of_different_runs_or_twice_the_same_are_refused(packs):
    with pytest.raises(Refused, match=r"timeline\.pack"):
        merge([packs[0], packs[0]])


def test_the_story_is_drawn(packs, tmp_path):
    figure_of(merge(packs)).savefig(tmp_path / "story.png")
    assert (tmp_path / "story.png").stat().st_size > 10_000
