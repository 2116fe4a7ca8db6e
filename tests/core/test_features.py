"""Features as columns, whoever keeps them and in whatever order."""

import numpy as np

from fedrec.core.features import from_values, joined

MEN = from_values({"age": [30, None, 50.0], "tags": [["a", "b"], None, ["b"]], "job": ["x", "y", None]}, 3)


def test_a_column_is_a_number_a_text_or_whether_it_is_unknown():
    np.testing.assert_array_equal(MEN.column("age"), [30, np.nan, 50])
    np.testing.assert_array_equal(MEN.column("tags=b"), [1, np.nan, 1])
    np.testing.assert_array_equal(MEN.column("tags=a"), [1, np.nan, 0])
    np.testing.assert_array_equal(MEN.column("job?"), [0, 0, 1])
    np.testing.assert_array_equal(MEN.column("age?"), [0, 1, 0])


def test_what_nobody_keeps_is_unknown_and_a_text_that_nobody_has_is_no():
    np.testing.assert_array_equal(MEN.column("height"), [np.nan] * 3)
    np.testing.assert_array_equal(MEN.column("height?"), [1, 1, 1])
    np.testing.assert_array_equal(MEN.column("job=z"), [0, 0, np.nan])


def test_every_column_is_named():
    assert MEN.columns() == ("age", "tags=a", "tags=b", "job=x", "job=y")


def test_a_key_goes_with_the_features_and_not_with_the_place():
    order = np.array([2, 0, 1])
    np.testing.assert_array_equal(MEN.take(order).keys(), MEN.keys()[order])
    assert len(set(MEN.keys().tolist())) == 3


def test_users_of_two_institutions_stand_one_after_another():
    both = joined([MEN, from_values({"age": [1.0], "job": ["z"]}, 1)])
    np.testing.assert_array_equal(both.column("age"), [30, np.nan, 50, 1])
    np.testing.assert_array_equal(both.column("job=z"), [0, 0, np.nan, 1])
    np.testing.assert_array_equal(both.column("tags=b"), [1, np.nan, 1, np.nan])
    np.testing.assert_array_equal(both.take(slice(0, 2)).column("job=x"), [1, 0])
