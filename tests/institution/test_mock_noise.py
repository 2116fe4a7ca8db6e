"""A mock as uneven as the data: noise before anything is shown, booked once, and never a real name."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from small_site import events, make_site

from fedrec.cli.site import site as command
from fedrec.config import SchemaConfig
from fedrec.core.interactions import Interactions
from fedrec.errors import Refused
from fedrec.exchange.accountant import epsilon_of
from fedrec.institution.evidence.reconcile import reconcile
from fedrec.institution.mock import make_mock
from fedrec.institution.mock_noise import draw, drawn, marginals, place
from fedrec.institution.site import Site

SCHEMA = SchemaConfig.model_validate(
    {
        "title": "T",
        "columns": {"user": "u", "item": "i", "rating": "r"},
        "rating": {"min": 1.0, "max": 5.0, "step": 1.0},
        "mock": {"users": 50, "items": 40, "rows": 600},
    }
)


def uneven(users=3000) -> Interactions:
    """One film of thirty is in everybody's rows, and nearly every rating is a five."""
    rng = np.random.default_rng(0)
    item = np.array([[0, *sorted(rng.choice(np.arange(1, 30), 3, replace=False))] for _ in range(users)], np.int32)
    rating = np.where(rng.random(item.size) < 0.9, 5.0, 1.0).astype(np.float32)
    return Interactions(np.repeat(np.arange(users), 4).astype(np.int32), item.ravel(), rating, None, users, 30)


def test_one_person_moves_each_marginal_by_no_more_than_one():
    rows = uneven(50)
    whole = marginals(rows, SCHEMA.rating)
    for user in range(50):
        keep = rows.user != user
        part = replace(rows, user=rows.user[keep], item=rows.item[keep], rating=rows.rating[keep])
        for name, array in marginals(part, SCHEMA.rating).items():
            assert 0 < np.linalg.norm(whole[name] - array) <= 1 + 1e-9, name


def test_such_a_mock_has_the_unevenness_of_the_data_and_the_schemas_has_not():
    plain, mock = make_mock(SCHEMA), make_mock(SCHEMA, marginals(uneven(), SCHEMA.rating))
    assert (mock["r"] == 5).mean() > 0.8 > 0.4 > (plain["r"] == 5).mean()
    assert mock["i"].value_counts().iloc[0] > 1.5 * plain["i"].value_counts().iloc[0]
    assert len(mock.drop_duplicates(["u", "i"])) == 600
    assert set(mock["i"]) <= {f"mock-item-{number:04d}" for number in range(1, 41)}


def test_it_is_booked_before_it_is_drawn_once_and_within_the_limit_of_the_site(tmp_path):
    site = make_site(tmp_path, "epsilon_limit = 1.0\n")
    version, folder = site.store.version, site.folder
    site.close()
    with pytest.raises(Refused, match=r"epsilon 1; 0\.00 is spent"):
        draw(folder, 1.5)
    assert drawn(folder / "state", version) is None
    first = draw(folder, 0.75)
    kept = drawn(folder / "state", version)
    assert draw(folder, 0.9)["cost"] == 0  # the same noise serves, whatever is asked now
    assert {k: v.tobytes() for k, v in drawn(folder / "state", version).items()} == {
        k: v.tobytes() for k, v in kept.items()
    }
    site = Site.open(folder)
    assert site.ledger.spent() == first["cost"]
    assert epsilon_of(first["cost"], 1e-5) == pytest.approx(0.75, rel=1e-3)
    assert events(site, "mock.noise") == ["intent", "ledger.epsilon", "intent", "done"]
    site.close()
    assert [one for one in reconcile(folder) if one.where == "budget"] == []
    with closing(sqlite3.connect(folder / "state" / "ledger.sqlite")) as db, db:
        db.execute("DELETE FROM spent")
    assert [one.kind for one in reconcile(folder) if one.where == "budget"] == ["event without act"]


def test_a_crash_after_the_booking_costs_once(tmp_path, monkeypatch):
    site = make_site(tmp_path)
    folder, version = site.folder, site.store.version
    site.close()

    def torn(*_):
        raise OSError("the machine is gone")

    with monkeypatch.context() as patch:
        patch.setattr("fedrec.institution.mock_noise.once", torn)
        with pytest.raises(OSError, match="gone"):
            draw(folder, 0.5)
    assert not place(folder / "state", version).exists()
    cost = draw(folder, 5.0)["cost"]  # what was booked is what the noise may cost
    site = Site.open(folder)
    assert site.ledger.spent() == cost
    assert epsilon_of(cost, 1e-5) == pytest.approx(0.5, rel=1e-3)
    site.close()


def test_the_owner_s_command_says_what_it_booked(tmp_path):
    site = make_site(tmp_path)
    site.close()
    once, again = (CliRunner().invoke(command, ["mock", str(site.folder), "--epsilon", "0.5"]) for _ in range(2))
    assert "booked epsilon 0.5; start" in once.output
    assert "costs nothing again" in again.output
