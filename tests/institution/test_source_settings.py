"""What site.toml and schema.toml may say about sources and features, and where features come from."""

from __future__ import annotations

import pytest
from source_files import ALL, SCHEMA, SQLITE, database, institution

from fedrec.config import SchemaConfig, SiteConfig
from fedrec.errors import ConfigError, DataError
from fedrec.institution.intake import take_in_folder
from fedrec.institution.store import Store


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('url = "postgresql://me:geheim@localhost/x"', "must not hold a password"),
        ('url = "postgresql://localhost/x?password=geheim"', "must not hold a password"),
        ('url = "mysql://localhost/x"', "no read-only connection is known"),
        ("", "give either source.url or source.url_env"),
        ('url = "sqlite:///x.db"\nurl_env = "X"', "give either source.url or source.url_env"),
        ('url_env = "a b"', "must be a variable's name"),
    ],
)
def test_where_the_rows_come_from_is_checked_with_the_settings(tmp_path, lines, says):
    folder = institution(tmp_path, f'[source]\n{lines}\nquery = "SELECT 1"\n')
    with pytest.raises(ConfigError, match=says) as caught:
        SiteConfig.load(folder / "site.toml")
    assert "geheim" not in str(caught.value)


# features from files of their own, from queries, and from the catalogue

FEATURES = SCHEMA + '[features.user.age]\ntype = "number"\n[features.item.genre]\ntype = "text"\n'


def test_features_come_from_files_of_their_own_and_from_the_catalogue(tmp_path):
    folder = institution(tmp_path, 'data = "data/r.csv"\nuser_data = "data/users.csv"\n', FEATURES)
    (folder / "data" / "r.csv").write_text("user,item,rating,timestamp\nu,b,3,1\nv,a,3,1\n")
    (folder / "data" / "users.csv").write_text("user,age\nv,31\nnobody,50\n")
    take_in_folder(folder)
    store = Store.open(folder / "state")
    assert store.features("users").to_pydict() == {"age": [None, 31.0]}
    assert store.features("items").to_pydict() == {"genre": ["war", "love"]}


def test_features_come_from_queries(tmp_path):
    more = (
        'user_query = "SELECT user, 40 AS age FROM ratings"\nitem_query = "SELECT item, \'x\' AS genre FROM ratings"\n'
    )
    folder = institution(tmp_path, SQLITE.format(ALL) + more, FEATURES)
    database(folder / "data" / "shop.db")
    take_in_folder(folder)
    store = Store.open(folder / "state")
    assert store.features("users").to_pydict() == {"age": [40.0, 40.0]}
    assert store.features("items").to_pydict() == {"genre": ["x", "x"]}


def test_a_link_to_features_outside_the_folder_is_not_followed(tmp_path):
    folder = institution(tmp_path, 'user_data = "data/users.csv"\n', FEATURES)
    (folder / "data" / "ratings.csv").write_text("user,item,rating,timestamp\nu,b,3,1\n")
    (tmp_path / "outside.csv").write_text("user,age\nu,31\n")
    (folder / "data" / "users.csv").symlink_to(tmp_path / "outside.csv")
    with pytest.raises(DataError, match=r"users\.csv: the file lies outside"):
        take_in_folder(folder)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('[time]\nzone = "Europe/Berlin"', 'no meaning without unit = "iso"'),
        ('[time]\nunit = "iso"\nzone = "Mars/Base"', "must be a time zone"),
        ('[values]\nrating = ["3"]', "rating is a column that columns names already"),
        ("[values]\nshop = []", "values.shop: must have at least 1"),
        ("[filter]\nusers_min = 0", "filter.users_min: must be at least 1"),
        ('[features.user.age]\ntype = "word"', "features.user.age.type: must be 'number', 'text' or 'tags'"),
        ('[features.user.age]\ntype = "text"\nmin = 1', 'a meaning with type = "number" only'),
        ('[features.user.age]\ntype = "number"\nvalues = ["1"]', "give min and max"),
        ('[features.user.age]\ntype = "number"\nmin = 2\nmax = 1', "must be at least min"),
        (
            '[features.user.age]\ntype = "number"\nmax_ = 1',
            "features.user.age.max_: is not a known key; did you mean max?",
        ),
        ('[features.item.user]\ntype = "text"', "user is a column that columns names already"),
    ],
)
def test_what_the_schema_asks_for_is_checked(tmp_path, lines, says):
    (tmp_path / "schema.toml").write_text(SCHEMA + lines + "\n")
    with pytest.raises(ConfigError) as caught:
        SchemaConfig.load(tmp_path / "schema.toml")
    assert says in str(caught.value)
