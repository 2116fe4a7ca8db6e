"""The mock: true to the schema, and made from nothing else."""

from __future__ import annotations

import inspect
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.config import SchemaConfig
from fedrec.institution.index import index_frame
from fedrec.institution.intake import read_source
from fedrec.institution.mock import make_mock, mock_catalogue

MOVIES = Path(__file__).parents[2] / "domains" / "movies"
INSTITUTIONS = ["aurora", "borealis", "cinema-lumen", "delphi"]


def schema(**changes) -> SchemaConfig:
    full = {"title": "T", "columns": {"user": "who", "item": "what", "rating": "stars", "time": "at"}}
    return SchemaConfig.model_validate({**full, "rating": {"min": 0.5, "max": 5.0, "step": 0.5}, **changes})


def test_the_schema_and_noised_marginals_are_the_only_things_that_a_mock_is_made_from():
    parameters = inspect.signature(make_mock).parameters
    found = [(p.name, p.annotation, p.default) for p in parameters.values()]
    assert found == [
        ("schema", "SchemaConfig", inspect.Parameter.empty),
        ("marginals", "Mapping[str, Array] | None", None),
    ]


@pytest.mark.parametrize("name", INSTITUTIONS)
def test_the_committed_mock_is_the_one_that_the_schema_makes(name):
    mock = make_mock(SchemaConfig.load(MOVIES / name / "schema.toml"))
    assert (MOVIES / name / "mock.csv").read_bytes() == mock.to_csv(index=False, lineterminator="\n").encode()


def test_the_four_mocks_differ():
    assert len({(MOVIES / name / "mock.csv").read_bytes() for name in INSTITUTIONS}) == 4


def test_a_mock_has_the_columns_sizes_and_scale_of_its_schema():
    mock = make_mock(schema(mock={"users": 3, "items": 4, "rows": 12, "seed": 5}))
    assert list(mock.columns) == ["who", "what", "stars", "at"]
    assert len(mock.drop_duplicates(["who", "what"])) == 12  # every pair of 3 x 4, none twice
    assert set(mock["who"]) == {"mock-user-0001", "mock-user-0002", "mock-user-0003"}
    assert set(mock["what"]) <= set(mock_catalogue(schema(mock={"users": 3, "items": 4, "rows": 12})))
    assert set(mock["stars"]) <= {n / 2 for n in range(1, 11)}  # 0.5, 1.0, ... 5.0
    assert mock["at"].between(1_577_836_800, 1_609_459_200).all()  # within 2020


def test_milliseconds_and_absent_columns_follow_the_schema():
    assert make_mock(schema(time={"unit": "ms"}))["at"].min() > 1_577_836_800_000
    plain = SchemaConfig.model_validate({"title": "T", "columns": {"user": "u", "item": "i"}})
    assert list(make_mock(plain).columns) == ["u", "i"]


def test_the_seed_decides_and_nothing_else_does():
    first = make_mock(schema(mock={"seed": 1}))
    pd.testing.assert_frame_equal(first, make_mock(schema(mock={"seed": 1}, title="Other")))
    assert not first.equals(make_mock(schema(mock={"seed": 2})))


@given(
    low=st.integers(-5, 5),
    steps=st.integers(1, 20),
    step=st.sampled_from([0.1, 0.25, 0.5, 1.0, 3.0]),
    seed=st.integers(0, 2**40),
)
def test_every_row_of_a_mock_passes_the_intake(tmp_path_factory, low, steps, step, seed):
    own = schema(rating={"min": float(low), "max": low + steps * step, "step": step}, mock={"seed": seed})
    file = tmp_path_factory.mktemp("mock") / "mock.csv"
    make_mock(own).to_csv(file, index=False)
    found = index_frame(
        read_source(file, own),
        mock_catalogue(own),
        user="who",
        item="what",
        rating="stars",
        time="at",
        scale=(own.rating.min, own.rating.max),
    )
    assert len(found.rows) == 400
