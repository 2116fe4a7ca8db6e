"""Doing rounds again from the log: the same SHA-256, or a refusal that says what is gone."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing

import pytest
from told import RUN, forged, tell

import fedrec
from fedrec.errors import Refused
from fedrec.institution import versions
from fedrec.institution.evidence.replay import replay
from fedrec.institution.site import Site


@pytest.fixture(scope="module")
def story(tmp_path_factory, jail):
    return tell(tmp_path_factory.mktemp("told"), jail)


@pytest.fixture
def folder(story, tmp_path):
    shutil.copytree(story.parent, tmp_path / "copy")
    return tmp_path / "copy" / story.name


def test_a_whole_run_gives_the_same_bytes_again(story, jail):
    before = sorted(path.name for path in (story / "state").iterdir())
    done = list(replay(story, RUN, jail))
    assert [(one.kind, one.round, one.same) for one in done] == [
        ("train", 0, True), ("train", 1, True), ("train", 2, True), ("evaluate", 2, True),
    ]  # fmt: skip
    assert len({one.recorded for one in done}) == 4
    assert sorted(path.name for path in (story / "state").iterdir()) == before


def test_one_round_is_compared_alone_and_a_round_that_is_not_there_is_refused(story, jail):
    assert [one.round for one in replay(story, RUN, jail, 1)] == [1]
    with pytest.raises(Refused, match=r"replay\.run"):
        list(replay(story, RUN, jail, 7))
    with pytest.raises(Refused, match=r"replay\.run"):
        list(replay(story, "another", jail))


def test_the_first_round_needs_no_kept_model_because_the_plan_gives_it(folder, jail):
    shutil.rmtree(folder / "state" / "bases")
    assert [one.same for one in replay(folder, RUN, jail, 0)] == [True]
    with pytest.raises(Refused, match=r"replay\.base: the model that round 1 started from is not kept"):
        list(replay(folder, RUN, jail, 1))


def test_an_update_that_is_not_what_the_round_gives_is_found(folder, jail):
    """As it would be if other code, other rows or another model had made it; the log was signed again."""

    def other(event):
        if event["act"] == "train" and event["round"] == 1 and event["outcome"] == "done":
            event["detail"]["sha256"] = "0" * 64
        return event

    forged(folder, other)
    assert [one.same for one in replay(folder, RUN, jail, 1)] == [False]


def test_rows_that_were_changed_under_their_version_give_another_update(folder, jail):
    (rows,) = (folder / "state" / "store").glob("*/rows.arrow")
    data = bytearray(rows.read_bytes())
    (item,) = {
        place
        for place in range(len(data) - 40)
        if data[place : place + 12] == bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])
    } or {0}
    assert item
    data[item + 8] = 6
    rows.write_bytes(data)
    assert not all(one.same for one in replay(folder, RUN, jail))


def test_data_that_is_gone_is_refused(folder, jail):
    (version,) = (folder / "state" / "store").glob("[0-9a-f]" * 16)
    shutil.rmtree(version)
    with pytest.raises(Refused, match=r"replay\.data"):
        list(replay(folder, RUN, jail))


def test_a_text_that_was_changed_in_the_ledger_is_refused(folder, jail):
    with closing(sqlite3.connect(folder / "state" / "ledger.sqlite")) as db, db:
        db.execute("UPDATE requests SET plan=replace(plan, 'factors = 4', 'factors = 5')")
    with pytest.raises(Refused, match=r"replay\.plan"):
        list(replay(folder, RUN, jail))


def test_a_policy_that_was_changed_is_refused(folder, jail):
    (kept,) = (folder / "state" / "policies").iterdir()
    kept.write_text(kept.read_text().replace("true", "false", 1))
    with pytest.raises(Refused, match=r"replay\.policy"):
        list(replay(folder, RUN, jail))


def test_a_round_of_another_version_of_fedrec_is_refused(story, jail, monkeypatch):
    monkeypatch.setattr(fedrec, "__version__", "9.9.9")
    with pytest.raises(Refused, match=r"replay\.version: the round ran on fedrec"):
        list(replay(story, RUN, jail))


def test_models_of_past_rounds_are_kept_within_their_room(folder):
    bases = folder / "state" / "bases"
    with closing(Site.open(folder)) as site:
        versions.sweep(site)
        assert len(list(bases.glob("*/*"))) == 4
    toml = folder / "site.toml"
    toml.write_text(toml.read_text() + "replay_mb = 0\n")
    with closing(Site.open(folder)) as site:
        versions.sweep(site)
    assert list(bases.iterdir()) == []
