"""fedrec site init: what it writes can be served, what it guesses it says, and it overwrites nothing."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from fedrec.cli.site import site
from fedrec.config import SchemaConfig, SiteConfig
from fedrec.errors import WrongInput
from fedrec.institution.intake import take_in_folder
from fedrec.institution.scaffold import guess, scaffold

OWNER = "owner@kino.example"


def ratings(path: Path, columns: str = "customer_id,film,stars,rated_at", row: str = "canary-{u},f{i},{r},{t}") -> Path:
    rows = [row.format(u=u, i=i, r=1.5 + (u + i) % 7 / 2, t=1_600_000_000 + i) for u in range(5) for i in range(4)]
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


def run(*arguments: object, code: int = 0):
    got = CliRunner().invoke(site, ["init", *(str(a) for a in arguments)])
    assert got.exit_code == code, (got.output, got.exception)
    return got


def test_the_folder_can_be_taken_in_at_once(tmp_path):
    data = ratings(tmp_path / "export.csv")
    got = run(tmp_path / "Kino Eins", "--owner", OWNER, "--port", 8123, "--data", data, "--json", "-")
    row = json.loads(got.stdout)
    folder = tmp_path / "Kino Eins"
    assert row["files"] == ["site.toml", "schema.toml", "DATASHEET.md", "mock.csv", "data/ratings.csv"]
    config = SiteConfig.load(folder / "site.toml")
    assert (config.name, config.port, config.owner, config.limits.own_code) == ("kino-eins", 8123, OWNER, False)
    schema = SchemaConfig.load(folder / "schema.toml")
    assert schema.columns.model_dump() == {"user": "customer_id", "item": "film", "rating": "stars", "time": "rated_at"}
    assert "guessed: user is the column customer_id, by its name" in got.stderr
    (tmp_path / "items.csv").write_text("item\n" + "".join(f"f{i}\n" for i in range(4)))
    member = f'[[member]]\nname = "kino-eins"\nfolder = "Kino Eins"\nkey = "{row["key"]}"\n'
    (tmp_path / "consortium.toml").write_text(f'name = "c"\ntitle = "C"\n{member}')
    assert take_in_folder(folder).rows_kept == 20
    assert stat.S_IMODE((folder / "data" / "ratings.csv").stat().st_mode) == 0o600
    assert [p for p in (folder / "state" / "keys").iterdir() if p.stat().st_mode & 0o077] == []


def test_no_value_of_a_row_gets_into_a_public_file(tmp_path):
    """Ratings from 1.5 to 4.5: the schema holds the usual scale around them."""
    scaffold(tmp_path / "a", name="a", owner=OWNER, data=ratings(tmp_path / "r.csv"))
    schema = SchemaConfig.load(tmp_path / "a" / "schema.toml")
    assert schema.rating is not None
    assert (schema.rating.min, schema.rating.max, schema.rating.step) == (1.0, 5.0, 0.5)
    public = [tmp_path / "a" / file for file in ("site.toml", "schema.toml", "DATASHEET.md", "mock.csv")]
    assert not any("canary" in file.read_text() for file in public)
    assert "canary" in (tmp_path / "a" / "data" / "ratings.csv").read_text()  # the search would have found one


@pytest.mark.parametrize("file", ["site.toml", "schema.toml", "DATASHEET.md", "mock.csv", "data/ratings.csv"])
def test_nothing_is_overwritten_and_then_nothing_is_written(tmp_path, file):
    folder = tmp_path / "a"
    (folder / "data").mkdir(parents=True)
    (folder / file).write_text("mine")
    with pytest.raises(WrongInput, match=f"{file} is there already; nothing was written"):
        scaffold(folder, name="a", owner=OWNER, data=ratings(tmp_path / "r.csv"))
    assert [p for p in folder.rglob("*") if p.is_file()] == [folder / file]
    assert (folder / file).read_text() == "mine"


def test_data_that_lies_in_its_place_already_stays_there(tmp_path):
    (tmp_path / "a" / "data").mkdir(parents=True)
    data = ratings(tmp_path / "a" / "data" / "ratings.csv")
    before = data.read_bytes()
    scaffold(tmp_path / "a", name="a", owner=OWNER, data=data)
    assert data.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"owner": "nobody"}, "owner: must be an e-mail address"),
        ({"name": "Not A Slug"}, "name: must be 1 to 63"),
        ({"title": 'quote " and \\ and\n'}, None),
        ({"columns": {"user": "who"}}, "has no column who"),
        ({"data": Path("nowhere.csv")}, "must be a .csv, .tsv or .parquet file"),
        ({"consortium": "/etc/consortium.toml"}, "consortium: must be a relative path"),
    ],
)
def test_wrong_arguments_are_said_before_anything_is_written(tmp_path, arguments, says):
    given = {"name": "a", "owner": OWNER, "data": ratings(tmp_path / "r.csv"), **arguments}
    if says is None:
        scaffold(tmp_path / "a", **given)
        assert SiteConfig.load(tmp_path / "a" / "site.toml").title == given["title"]
        return
    with pytest.raises(WrongInput, match=says):
        scaffold(tmp_path / "a", **given)
    assert not (tmp_path / "a").exists()


def test_a_column_that_cannot_be_guessed_is_asked_for_by_its_flag(tmp_path):
    data = ratings(tmp_path / "r.csv", columns="kunde,film,stars,rated_at")
    with pytest.raises(WrongInput, match=r"which column is the user\? Say --column user=NAME; it has kunde, film"):
        guess(data)
    assert guess(data, {"user": "kunde", "rating": ""}).columns == {"user": "kunde", "item": "film", "time": "rated_at"}


@pytest.mark.parametrize(
    ("cells", "unit"), [("1600000000", "s"), ("1600000000000", "ms"), ("2020-09-13T12:26:40Z", "iso")]
)
def test_the_unit_of_time_is_told_from_its_size(tmp_path, cells, unit):
    data = ratings(tmp_path / "r.csv", row="u{u},f{i},{r}," + cells)
    assert guess(data).unit == unit


def test_a_parquet_file_with_dates_is_guessed_too(tmp_path):
    frame = pd.DataFrame(
        {"user_id": [1, 2], "isbn": ["a", "b"], "plays": [3, 700], "date": pd.to_datetime(["2020-01-01"] * 2)}
    )
    frame.to_parquet(tmp_path / "r.parquet")
    found = guess(tmp_path / "r.parquet")
    assert (found.unit, found.scale) == ("iso", (0.0, 1e6, 1.0))
    assert any("put the real bounds in" in line for line in found.said)


def test_without_a_terminal_nothing_is_asked(tmp_path):
    got = run(tmp_path / "a", code=1)
    assert isinstance(got.exception, WrongInput)
    assert "--owner is missing" in str(got.exception)
    assert not (tmp_path / "a").exists()


def test_somebody_at_the_terminal_is_asked(tmp_path, monkeypatch):
    import click.testing

    monkeypatch.setattr(click.testing._NamedTextIOWrapper, "isatty", lambda _: True, raising=False)
    got = CliRunner().invoke(site, ["init", str(tmp_path / "a")], input=f"kino\nKino Eins\n{OWNER}\n8080\n\n")
    assert got.exit_code == 0, got.output
    config = SiteConfig.load(tmp_path / "a" / "site.toml")
    assert (config.name, config.title, config.owner, config.port) == ("kino", "Kino Eins", OWNER, 8080)
