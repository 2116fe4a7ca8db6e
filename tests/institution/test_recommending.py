"""An institution's own users: served lists, new users folded in, filters, reasons. Nobody's code, no network."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from serving import COUNTS, serve
from small_site import ITEMS, own, recipe

import fedrec
from fedrec.cli.main import cli
from fedrec.errors import WrongInput
from fedrec.institution.audit import read
from fedrec.institution.intake import take_in_folder
from fedrec.institution.recommending import Recommender

EASE = {"weights": np.zeros((8, 8), dtype=np.float32), "counts": np.arange(1, 9, dtype=np.float32)}
EASE["weights"][[0, 1, 2, 4], [6, 6, 6, 5]] = [0.2, 0.5, 0.3, 0.1]  # films 0, 1, 2 speak for film 6, film 4 for film 5


def add_rows(site, *rows):
    with (site.folder / "data" / "ratings.csv").open("a") as file:
        file.writelines(f"{user},{item},4,{time}\n" for user, item, time in rows)
    take_in_folder(site.folder)


def test_a_user_who_came_after_the_training_is_folded_in_and_a_stranger_gets_what_is_popular(site):
    serve(site, "ease", EASE)
    assert Recommender(site.folder).for_user("late", 2).how == "popular"
    add_rows(site, ("late", "film-0", 2000), ("late", "film-7", 2001))
    served = Recommender(site.folder)
    late = served.for_user("late", 2)
    assert (late.items[0], late.how, late.known) == ("film-6", "folded", True)
    assert served.for_user(" late ", 2).items == late.items
    assert served.for_user("stranger", 2).items == ["film-7", "film-6"]
    assert served.for_items(["film-0", "film-7", "no such film"], 8).items == served.for_user("late", 8).items
    assert served.for_items(["no such film"], 1).how == "popular"
    assert served.for_user("late", 8).items == ["film-6", *(f"film-{place}" for place in range(1, 6))]  # all but seen


def hybrid(site):
    """A model that says by features alone that town t1 likes genre g1; all items have been touched somewhere."""
    for of, lines in (
        ("items", [f"film-{i},g{i % 2}" for i in range(8)]),
        ("users", [f"canary-{i},t{i % 2}" for i in range(6)]),
    ):
        head = {"items": "item,genre", "users": "user,town"}[of]
        (site.folder / "data" / f"{of}.csv").write_text("\n".join([head, *lines]) + "\n")
    with (site.folder / "schema.toml").open("a") as file:
        file.write('[features.item.genre]\ntype = "text"\n[features.user.town]\ntype = "text"\nvalues = ["t0", "t1"]\n')
    toml = site.folder / "site.toml"
    toml.write_text('item_data = "data/items.csv"\nuser_data = "data/users.csv"\n' + toml.read_text())
    take_in_folder(site.folder)
    columns = {"columns": ["user.town=t1", "item.genre=g1"], "centre": [0.5, 0.5], "scale": [1.0, 1.0]}
    shared = {
        "items": np.full((8, 4), 1e-6),
        "of_items": np.array([[2.0, 0, 0, 0]]),
        "of_users": np.array([[3.0, 0, 0, 0]]),
    }
    serve(
        site,
        plan=replace(recipe("ease"), model={"name": "hybrid", "factors": 4, **columns}),
        shared={name: array.astype(np.float32) for name, array in shared.items()},
    )
    return Recommender(site.folder)


def genres(found):
    return [int(item[-1]) % 2 for item in found.items]


def test_a_model_of_features_reads_them_when_somebody_is_folded_in(site):
    served = hybrid(site)
    assert genres(served.for_items(["film-1", "film-3"], 4)) == [1, 1, 0, 0]  # film-5 and 7 are left of genre 1
    assert genres(served.for_items(["film-0", "film-2"], 4)) == [0, 0, 1, 1]
    for town in (0, 1):
        new = served.for_items([], 8, about=[f"town=t{town}"])
        assert (new.how, genres(new)) == ("folded", [town] * 4 + [1 - town] * 4)
    add_rows(site, ("canary-1", "film-6", 2000))  # no list any more: folded in, with the town of data/users.csv
    again = Recommender(site.folder).for_user("canary-1", 2)
    assert again.how == "folded"
    assert genres(again)[0] == 1


def test_what_is_told_about_somebody_must_be_in_the_schema(site):
    served = hybrid(site)
    for about in ("shoe=44", "town=t9", "town"):
        with pytest.raises(WrongInput, match=r"schema\.toml"):
            served.for_items([], 3, about=[about])


def test_a_model_without_features_gives_a_newcomer_what_is_popular(site):
    hybrid(site)
    serve(site, "ease", EASE)
    assert Recommender(site.folder).for_items([], 2, about=["town=t1"]).how == "popular"


def test_rows_that_came_after_the_training_count_as_seen(site):
    serve(site, "ease", EASE)
    assert Recommender(site.folder).for_user("canary-0", 1).items == ["film-6"]
    add_rows(site, ("canary-0", "film-6", 2000))
    found = Recommender(site.folder).for_user("canary-0", 8)
    assert (found.items, found.how) == (["film-5", "film-7"], "folded")


def test_lists_and_folding_in_give_the_same(site):
    serve(site, "ease")
    served = Recommender(site.folder)
    for user in range(6):
        listed = served.for_user(f"canary-{user}", 3)
        again = served.for_items([ITEMS[(user + step) % 8] for step in range(5)], 3)
        assert (listed.how, again.how, again.items) == ("list", "folded", listed.items)


def test_reasons_are_the_users_items_that_speak_most_for_it(site):
    serve(site, "ease", EASE)
    found = Recommender(site.folder).for_user("canary-0", 3, explain=True)
    assert found.items == ["film-6", "film-5", "film-7"]
    assert found.reasons == [["film-1", "film-2"], ["film-4"], []]
    assert Recommender(site.folder).for_user("nobody", 3, explain=True).reasons == []
    assert Recommender(site.folder).for_user("canary-0", 3).reasons == []


@pytest.mark.parametrize(
    ("where", "items"),
    [
        (["genre=Drama"], ["film-6", "film-5"]),
        (["genre!=Drama"], ["film-7"]),
        (["year>=1996", "genre=War"], ["film-6"]),
        (["year<=1995"], ["film-5"]),
        (["genre = Comic"], []),
    ],
)
def test_filters_read_the_catalogue(site, where, items):
    cells = ["film-5,Five,1995,Drama", "film-6,Six,1996,Drama|War", "film-7,Seven,,"]
    rows = [f"film-{place},{place},1990,Comic" for place in range(5)]
    (site.folder.parent / "items.csv").write_text("\n".join(["item,title,year,genre", *rows, *cells]) + "\n")
    serve(site, "ease", EASE)
    assert Recommender(site.folder).for_user("canary-0", 5, where).items == items


def test_filters_read_the_stores_features_too(site):
    (site.folder / "data" / "items.csv").write_text("item,age,genre\nfilm-5,3,War|Drama\nfilm-6,18,Drama\n")
    with (site.folder / "schema.toml").open("a") as file:
        file.write('[features.item.age]\ntype = "number"\n[features.item.genre]\ntype = "tags"\n')
    settings = site.folder / "site.toml"
    settings.write_text('item_data = "data/items.csv"\n' + settings.read_text())
    take_in_folder(site.folder)
    serve(site, "ease", EASE)
    served = Recommender(site.folder)
    assert served.for_user("canary-0", 5, ["age<=12"]).items == ["film-5"]
    assert served.for_user("canary-0", 5, ["genre=Drama", "age=18"]).items == ["film-6"]
    assert served.for_user("nobody", 5, ["genre=Drama"]).items == ["film-6", "film-5"]


@pytest.mark.parametrize("where", ["genre", "=x", "nothing=1", "title>=x"])
def test_a_filter_that_makes_no_sense_is_refused(site, where):
    (site.folder.parent / "items.csv").write_text("item,title\n" + "".join(f"{item},T\n" for item in ITEMS))
    serve(site)
    with pytest.raises(WrongInput):
        Recommender(site.folder).for_user("canary-0", 1, [where])


def test_own_code_serves_its_lists_and_is_never_run_here(site):
    """The code would say so: it raises as soon as its class is made. The jail is where it made its lists."""
    serve(site, plan=own(publish=True), shared={"v": np.zeros(8)})
    found = Recommender(site.folder).for_user("canary-0", 3, explain=True)
    assert (found.how, found.reasons) == ("list", [[], [], []])
    assert Recommender(site.folder)._model is None
    assert Recommender(site.folder).for_items(["film-0"], 1).how == "popular"


@pytest.mark.parametrize(
    "bad", [{"weights": np.zeros((3, 3))}, {"weights": np.zeros(8)}, {"weights": np.zeros((8, 9))}]
)
def test_a_published_model_of_another_form_is_an_error_of_one_line(site, bad):
    serve(site, "ease", EASE)
    file = next((site.state / "models").glob("*/shared.safetensors"))
    from fedrec.exchange.wire import encode

    file.write_bytes(encode(bad | COUNTS))
    with pytest.raises(WrongInput, match="serve another"):
        Recommender(site.folder).for_items(["film-7", "film-6"], 1)


def test_the_command_and_the_call_from_python_count_in_the_log_and_name_nobody(site):
    model = serve(site, "ease", EASE)
    found = fedrec.recommend(site.folder, "canary-0", k=1, explain=True)
    assert (found.items, found.reasons) == (["film-6"], [["film-1", "film-2"]])
    said = CliRunner().invoke(
        cli, ["recommend", str(site.folder), "--items", "film-0,film-1", "-k", "2", "--explain", "--json", "-"]
    )
    assert said.exit_code == 0, said.output
    answer = json.loads(said.output)
    assert (answer["how"], answer["items"][0]["because"]) == ("folded", ["film-1", "film-0"])
    text = CliRunner().invoke(cli, ["recommend", str(site.folder), "--user", "canary-0", "-k", "1", "--explain"]).output
    assert text == "for this user\n  1  film-6  (because of film-1, film-2)\n"
    events = [event for event in read(site.folder, "recommend") if event["outcome"] == "done"]
    assert [event["object"] for event in events] == [model] * 3
    assert [event["detail"]["items"] for event in events] == [1, 2, 1]
    assert "canary" not in "".join(map(str, read(site.folder)))
    with pytest.raises(WrongInput, match="name a user, or items"):
        fedrec.recommend(site.folder)


def test_all_users_at_once_get_what_each_gets_alone(site, tmp_path):
    model = serve(site, "ease", EASE)
    add_rows(site, ("late", "film-0", 2000), ("canary-0", "film-6", 2000))
    file = tmp_path / "lists.parquet"
    said = CliRunner().invoke(cli, ["recommend", str(site.folder), "--all", str(file), "-k", "2", "--json", "-"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.output) == {"users": 7, "rows": 14}
    table, served = pq.read_table(file), Recommender(site.folder)
    assert (file.stat().st_mode & 0o777, table.schema.metadata[b"model"].decode()) == (0o600, model)
    rows = table.to_pylist()
    for user in served.users:
        found = served.for_user(user, 2)
        expected = [{"user": user, "rank": n, "item": i, "how": found.how} for n, i in enumerate(found.items, 1)]
        assert [row for row in rows if row["user"] == user] == expected
    assert {row["how"] for row in rows} == {"folded"}
    done = [event["detail"] for event in read(site.folder, "recommend") if event["outcome"] == "done"]
    assert done == [{"users": 7, "items": 14, "known": True}]


def test_an_export_that_fails_leaves_the_file_of_before(site, tmp_path):
    serve(site, "ease", EASE)
    file = tmp_path / "lists.parquet"
    file.write_text("before")
    for wrong in (["-k", "0"], ["--where", "nothing=1"], ["--user", "x"]):
        assert CliRunner().invoke(cli, ["recommend", str(site.folder), "--all", str(file), *wrong]).exit_code != 0
    assert CliRunner().invoke(cli, ["recommend", str(site.folder), "--all", str(tmp_path / "no" / "f")]).exit_code != 0
    assert (file.read_text(), [path.name for path in tmp_path.glob("*lists*")]) == ("before", ["lists.parquet"])
