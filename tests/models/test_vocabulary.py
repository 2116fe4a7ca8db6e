"""Texts of features that nobody named first are found in a sum, and those of too few users are not in it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedrec
from fedrec import models
from fedrec.core.features import from_values
from fedrec.core.interactions import Interactions
from fedrec.core.params import PrivateParams
from fedrec.errors import WrongInput
from fedrec.exchange.privacy import Privacy
from fedrec.models import vocabulary
from fedrec.simulation import SimulatedFederation, pooled

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
counts = st.dictionaries(texts, st.integers(1, 2**36), max_size=60)


@given(st.lists(counts, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_sum_of_tables_holds_the_sum_of_counts(parts):
    total, wanted = vocabulary.empty(240), {}
    for part in parts:
        table = vocabulary.empty(240)
        vocabulary.put(table, part)
        total += table
        for text, count in part.items():
            wanted[text] = wanted.get(text, 0) + count
    assert vocabulary.take(total) == wanted


def test_a_table_with_too_many_texts_says_so_and_gives_none():
    table = vocabulary.empty(10)
    vocabulary.put(table, {f"genre {number}": 7 for number in range(100)})
    with pytest.raises(WrongInput, match="more texts than the 10"):
        vocabulary.take(table)


def clinics():
    """Four clinics; `ward` is a word, `signs` are tags; one word stands behind six people only."""
    rng, found = np.random.default_rng(0), {}
    for site in "abcd":
        n = 60
        wards = [f"Ward {w}" for w in rng.integers(0, 3, n)]
        if site == "b":
            wards[:6] = ["Miss Rare"] * 6
        signs = [[f"s{k}" for k in range(2) if rng.random() < 0.5] or None for _ in range(n)]
        known = from_values({"ward": wards, "signs": signs, "age": rng.integers(20, 80, n).astype(float).tolist()}, n)
        user, item = np.arange(n, dtype=np.int32).repeat(2), rng.integers(0, 8, 2 * n).astype(np.int32)
        about = from_values({"kind": ["tea", "coffee"] * 4}, 8)
        found[site] = Interactions(user, item, np.ones(2 * n, np.float32), None, n, 8, known, about)
    return SimulatedFederation(found, 8)


OPEN = ("user.ward=*", "user.signs=*", "user.age", "item.kind=*")
NAMED = ("user.ward=Ward 0", "user.ward=Ward 1", "user.ward=Ward 2", *(f"user.signs=s{k}" for k in range(2)), "user.age",
         "item.kind=coffee", "item.kind=tea")  # fmt: skip


def prepared(federation, columns, least=7, privacy=None):
    sums = models.FeatureSums(columns, least=least, texts=20)
    run = federation.train(fedrec.Plan(model=sums, train=("all",), privacy=privacy))
    return sums.settings(run.shared)


def test_columns_means_and_scales_are_those_of_columns_that_were_named():
    federation = clinics()
    assert prepared(federation, OPEN) == prepared(federation, NAMED)


def test_a_text_of_too_few_people_leaves_no_institution_and_with_a_lower_least_it_does():
    federation = clinics()
    assert "user.ward=Miss Rare" not in prepared(federation, OPEN)["columns"]
    assert "user.ward=Miss Rare" in prepared(federation, OPEN, least=5)["columns"]
    (rows,) = (rows for site, rows in federation._rows.items() if site == "b")
    sums = models.FeatureSums(OPEN, least=7, texts=20)
    found, _ = sums.fit_site(rows, sums.init(8, 0), PrivateParams({}))
    assert set(vocabulary.take(found["texts"][0])) == {"Ward 0", "Ward 1", "Ward 2"}


def test_four_institutions_find_what_one_finds_also_under_a_secure_sum():
    federation = clinics()
    one = prepared(pooled(federation), OPEN, least=5)
    assert prepared(federation, OPEN, least=5) == one
    assert prepared(federation, OPEN, least=5, privacy=Privacy("secure")) == one


def test_texts_that_were_not_found_yet_are_no_columns_of_a_model():
    with pytest.raises(WrongInput, match="a plan of `features` finds first"):
        models.Hybrid(("user.ward=*",))


def test_nobody_can_ask_for_the_texts_of_one_person():
    with pytest.raises(WrongInput, match="at least 5 with"):
        models.FeatureSums(OPEN, least=4)
    assert models.FeatureSums(("user.ward=Ward 1",), least=1)  # the control: a text that the owner reads in the plan
