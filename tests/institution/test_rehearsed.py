"""What a plan's update tells is tried on the mock, and said in the request, the permit and every passport."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from small_site import LIMITS, START, approved, make_site, own, recipe, train

from fedrec.exchange.passport import signed_by
from fedrec.exchange.plan import Tensor
from fedrec.institution import rehearsed as module
from fedrec.institution.intake import take_in_folder
from fedrec.institution.jobs import Jobs
from fedrec.institution.mock import make_mock
from fedrec.institution.rehearsed import rehearsed
from fedrec.institution.review import details, text_of
from fedrec.models import from_plan


def private(epsilon):
    plan = recipe("ease", runs=1, evaluate=False, publish=False)
    table = {"name": "private", "most": 4}
    leaves = {name: Tensor.parse(text) for name, text in from_plan(table).leaves().items()}
    plan = replace(plan, name="private", model=table, leaves=leaves)
    return replace(plan, privacy={"sum": "plain", "epsilon": epsilon, "delta": 1e-5})


@pytest.fixture
def site(tmp_path):
    site = make_site(tmp_path, LIMITS)
    yield site
    site.close()


def test_an_exact_update_tells_each_person_of_the_mock_and_noise_hides_them(site):
    exact, hidden = (rehearsed(plan, site.folder, site.store.version) for plan in (recipe(), private(0.5)))
    assert "tells rightly in 100 of 100 tries" in exact
    right = int(hidden.partition("rightly in ")[2].partition(" of 100 tries")[0])
    assert right < 75  # epsilon 0.5 bounds it by 62 in the long run
    assert hidden == rehearsed(private(0.5), site.folder, site.store.version)  # it may leave again: the same


def test_of_items_touched_in_the_mock_the_sentence_says_how_many_can_be_read(site):
    said = rehearsed(recipe("popularity"), site.folder, site.store.version)
    seen = make_mock(module.SchemaConfig.load(site.folder / "schema.toml"))["item"].nunique()
    touched = int(said.partition("of the ")[2].split()[0])
    assert 30 < touched <= seen <= 40  # p1 leaves the newest rows out
    assert f"of the {touched} items touched, {touched} can be read among {touched} that it shows" in said


@pytest.mark.parametrize("plan", [own(), recipe("mf"), replace(recipe("mf"), local={"epochs": 1})])
def test_own_code_and_gradients_are_said_not_to_be_measured(plan, site):
    assert rehearsed(plan, site.folder, site.store.version).startswith("not measured: ")


def test_what_leaves_depends_on_the_mock_and_not_on_a_row(tmp_path):
    one, other = make_site(tmp_path / "x"), make_site(tmp_path / "y")
    (other.folder / "data" / "ratings.csv").write_text("user,item,rating,timestamp\nonly,film-0,1,5\n")
    version = take_in_folder(other.folder).version
    assert version != one.store.version
    assert rehearsed(recipe(), one.folder, one.store.version) == rehearsed(recipe(), other.folder, version)
    one.close()
    other.close()


def test_request_permit_and_signed_passport_say_the_same(site, jail):
    row = approved(site, recipe())
    jobs = Jobs(site, jail)
    said = rehearsed(recipe(), site.folder, site.store.version)
    assert row.signed_permit["rehearsal"] == said
    passport = train(site, jobs, row, START)["passport"]
    assert passport["rehearsal"] == said
    assert signed_by(passport, site.keys.public)
    assert not signed_by({**passport, "rehearsal": "50 of 100"}, site.keys.public)  # the control: it is under the seal
    shown = text_of(details(row, {}, site.now(), 8, site.config.limits, None, rehearsal=said))
    assert " ".join(said.split()) in " ".join(shown.split())
    jobs.close()


def test_the_sentence_of_a_model_that_fails_on_the_mock_says_so(site, monkeypatch):
    monkeypatch.setattr(module, "told", lambda *_, **__: math.sqrt(-1))
    assert (
        rehearsed(recipe(), site.folder, site.store.version) == "not measured: the model cannot be trained on the mock"
    )
