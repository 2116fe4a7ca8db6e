"""Every world of domains/: its folder is right, its data are the same bytes for a seed, and federating helps there."""

from __future__ import annotations

import filecmp
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from fedrec import models
from fedrec.cli.data import WORLDS as OFFERED
from fedrec.config import ConsortiumConfig, SchemaConfig, SiteConfig
from fedrec.datasets import WORLDS
from fedrec.datasets.shops import CATEGORIES
from fedrec.demo.plans import of_features, of_models
from fedrec.demo.sites import prepare
from fedrec.demo.table import rows_at
from fedrec.institution.intake import take_in_folder
from fedrec.institution.mock import make_mock
from fedrec.simulation import SimulatedFederation, pooled

ROOT = Path(__file__).parents[1] / "domains"
FILES = ["ratings.csv", "users.csv", "items.csv"]
UNKNOWN = {"hospitals": {"user.distance_km"}, "banks": {"user.income"}}  # of some people, by world
EVERY = sorted(path.parent.name for path in ROOT.glob("*/consortium.toml"))


@pytest.fixture(scope="module", params=WORLDS)
def world(request, tmp_path_factory):
    """A world's data, dealt out and taken in as the demo does it."""
    folder = tmp_path_factory.mktemp(request.param)
    WORLDS[request.param](folder / "source", 0)
    config = prepare(ROOT / request.param, folder / "sites", folder / "source")
    reports = {member.name: take_in_folder(config.member_folder(member.name)) for member in config.member}
    rows = {name: rows_at(config.member_folder(name)) for name in reports}
    federation = SimulatedFederation(rows, len(config.item_ids()), config.item_ids())
    schemas = [SchemaConfig.load(config.member_folder(name) / "schema.toml") for name in reports]
    return SimpleNamespace(
        name=request.param, folder=folder, config=config, reports=reports, federation=federation, schemas=schemas
    )


def tables(world):
    return (pd.read_csv(world.folder / "source" / name, dtype={"user": str, "item": str}) for name in FILES)


def test_every_world_has_a_consortium_and_can_be_had_by_its_name():
    assert set(EVERY) == {"movies", *WORLDS}
    assert tuple(WORLDS) == OFFERED


@pytest.mark.parametrize("name", EVERY)
def test_every_institution_s_folder_is_whole_and_its_mock_is_the_schema_s(name):
    consortium = ConsortiumConfig.load(ROOT / name / "consortium.toml")
    assert consortium.name == name
    assert set(consortium.demo.models) <= {*models.NAMES, "my_factors"}
    assert {path.name for path in (ROOT / name).iterdir() if path.is_dir()} == {m.folder for m in consortium.member}
    for member in consortium.member:
        folder = consortium.member_folder(member.name)
        site, schema = SiteConfig.load(folder / "site.toml"), SchemaConfig.load(folder / "schema.toml")
        assert site.name == member.name
        assert site.consortium_path.resolve() == ROOT / name / "consortium.toml"
        assert (folder / "mock.csv").read_text() == make_mock(schema).to_csv(index=False)
        assert (folder / "DATASHEET.md").read_text(encoding="utf-8").startswith("# ")


def test_a_seed_gives_the_same_bytes_and_another_seed_others(world, tmp_path):
    for seed in (0, 1):
        WORLDS[world.name](tmp_path / str(seed), seed)
    same = [filecmp.cmp(world.folder / "source" / name, tmp_path / "0" / name, shallow=False) for name in FILES]
    other = filecmp.cmp(world.folder / "source" / FILES[0], tmp_path / "1" / FILES[0], shallow=False)
    assert (same, other) == ([True] * 3, False)


def test_each_institution_takes_in_its_own_users_whole(world):
    ratings, users, _ = tables(world)
    own = users.groupby("institution")["user"].nunique() if "institution" in users else None
    for name, report in world.reports.items():
        assert not any(report.rejected.values())
        assert own is None or report.users == own[name]
        of = {"user": report.users, "item": report.items_in_catalogue}
        holes = {key for key, count in report.features.items() if count["known"] < of[key.partition(".")[0]]}
        assert holes == UNKNOWN.get(world.name, set())
        assert all(report.features[key]["known"] > 0.8 * report.users for key in holes)
        assert not any(count["not_allowed"] for count in report.features.values())
    assert sum(report.rows_in for report in world.reports.values()) == len(ratings)


def test_federating_helps_in_simulation(world):
    """Each model of the world's demo: popularity < alone < federated, and federated is near to pooled."""
    settings = {}
    for name, plan in of_features(world.config.demo.models, world.schemas, 0).items():
        settings[name] = plan.built.settings(world.federation.train(plan).shared)
    for plan in of_models(world.config.demo.models, settings, None, 0).values():
        found = [one.train(plan, protocol="p1").evaluate() for one in (world.federation, pooled(world.federation))]
        (figure,) = {"auc", "ndcg@10"} & set(found[0])
        means, central = (t[t["institution"] == "all"].set_index("scope")[figure] for t in found)
        assert means["popularity"] < means["local"] < means["federated"]
        assert means["federated"] == pytest.approx(central["federated"], rel=0.05)


def made(name, folder):
    WORLDS[name](folder, 0)
    return (pd.read_csv(folder / file, dtype={"user": str, "item": str}) for file in FILES)


def test_shops_customers_buy_what_their_age_band_likes_from_the_retailer_that_sells_it(tmp_path):
    ratings, users, items = made("shops", tmp_path)
    rows = ratings.merge(users, on="user").merge(items, on="item")
    assert all(shop in sold.split("|") for shop, sold in zip(rows["institution"], rows["sold_by"], strict=True))
    assert 0.85 < (items["sold_by"] == "harbour|meridian").mean() < 0.95
    bought = rows[rows["rating"] > 1]
    assert set(bought["rating"]) == {2, 3, 4}
    age = bought["age_band"].map({"18-29": 0, "30-44": 1, "45-59": 2, "60-99": 3})
    liked = bought["category"].map({name: place // 2 for place, name in enumerate(CATEGORIES)})
    assert (age == liked).mean() > 0.5
    assert ((age + 1) % 4 == liked).mean() < 0.25  # the control: what another band likes


def test_shops_series_are_bought_one_after_the_other(tmp_path):
    """How often two purchases in a row are a pair that other customers bought in a row too."""
    ratings, _, _ = made("shops", tmp_path)
    bought = ratings[ratings["rating"] > 1].iloc[::-1]
    follows = {user: list(pairwise(list(rows))) for user, rows in bought.groupby("user", sort=False)["item"]}
    customers = {}
    for user, pairs in follows.items():
        for pair in pairs:
            customers.setdefault(frozenset(pair), set()).add(user)
    known = [len(customers[frozenset(pair)]) > 1 for pairs in follows.values() for pair in pairs]
    mixed = np.random.default_rng(0).permutation([second for pairs in follows.values() for _, second in pairs])
    firsts = [first for pairs in follows.values() for first, _ in pairs]
    chance = [len(customers.get(frozenset(pair), ())) > 1 for pair in zip(firsts, mixed, strict=True)]
    assert np.mean(known) > 0.6 > 0.1 > np.mean(chance)


def test_social_follows_close_triangles_and_fall_on_few(tmp_path):
    ratings, users, items = made("social", tmp_path)
    assert list(users["user"]) == list(items["item"])  # users and items are the same people
    oldest = ratings.iloc[::-1].drop_duplicates("user")
    assert (oldest["user"] == oldest["item"]).all()
    ties = ratings[ratings["user"] != ratings["item"]].iloc[::-1]
    assert len(ties) == len(ratings) - len(users)
    mixed = np.random.default_rng(0).permutation(ties["item"].to_numpy())
    assert closed(ties["user"], ties["item"]) > closed(ties["user"], mixed) + 0.2
    count = np.sort(ties["item"].value_counts().to_numpy())[::-1]
    assert count[: len(users) // 10].sum() > 0.35 * len(ties)
    assert 0.2 < (ties["user"].map(users.set_index("user")["institution"])
                  == ties["item"].map(users.set_index("user")["institution"])).mean() < 0.6  # fmt: skip


def closed(users, items):
    """The share of ties to somebody whom a followed one follows already, oldest tie first."""
    follows, found = {}, []
    for user, item in zip(users, items, strict=True):
        mine = follows.setdefault(user, set())
        found.append(any(item in follows.get(one, ()) for one in mine))
        mine.add(item)
    return np.mean(found)
