"""The last look: names, dtypes, shapes, finite, bytes, cohort, and the counts and sums that a job reports itself."""

from __future__ import annotations

import asyncio
import hashlib

import numpy as np
import pytest
from scipy import sparse

from fedrec.core.metrics import Sums, values
from fedrec.errors import Refused
from fedrec.exchange.plan import Tensor
from fedrec.institution.blobs import Blobs
from fedrec.institution.guard import Guard, check_counts, check_outcomes, check_sums

GUARD = Guard({"g": Tensor.parse("float32 items x 2"), "n": Tensor.parse("int64 1")}, n_items=3, max_bytes=100)


def good():
    return {"g": np.ones((3, 2), np.float32), "n": np.ones(1, np.int64)}


def code_of(call, *given):
    try:
        call(*given)
    except Refused as refusal:
        return refusal.code
    return ""


def test_the_declared_update_passes_up_to_the_last_byte():
    assert code_of(GUARD.check, good(), 100) == ""
    assert code_of(GUARD.check, good(), 101) == "guard.bytes"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"more": np.ones(1)}, "guard.name"),
        ({"n": None}, "guard.name"),
        ({"g": np.ones((3, 2))}, "guard.dtype"),
        ({"g": np.ones((3, 2), ">f4")}, "guard.dtype"),
        ({"n": np.ones(1, np.int32)}, "guard.dtype"),
        ({"g": np.ones((2, 3), np.float32)}, "guard.shape"),
        ({"g": np.ones((3, 2, 1), np.float32)}, "guard.shape"),
        ({"g": np.ones(6, np.float32)}, "guard.shape"),
        ({"g": np.ones((0, 2), np.float32)}, "guard.shape"),
        ({"g": np.full((3, 2), np.nan, np.float32)}, "guard.finite"),
        ({"g": np.array([[0, 0], [0, 0], [0, np.inf]], np.float32)}, "guard.finite"),
        ({"g": np.array([[0, 0], [-np.inf, 0], [0, 0]], np.float32)}, "guard.finite"),
    ],
)
def test_an_update_that_differs_in_one_thing_is_refused_for_it(change, code):
    tensors = {name: value for name, value in {**good(), **change}.items() if value is not None}
    assert code_of(GUARD.check, tensors, 50) == code


@pytest.mark.parametrize(
    ("value", "code"), [(2.0, ""), (2.000001, ""), (2.001, "guard.norm"), (-2.001, "guard.norm"), (1e38, "guard.norm")]
)
def test_the_declared_norm_is_the_largest_that_passes(value, code):
    guard = Guard({"g": Tensor.parse("float32 items x 2 norm 2.0"), "n": Tensor.parse("int64 1")}, 3, 100)
    update = good()
    update["g"][:] = 0
    update["g"][1, 1] = value
    assert code_of(guard.check, update, 50) == code
    assert code_of(GUARD.check, update, 50) == ""  # control: without a declared norm any finite number passes


def test_a_norm_beyond_the_largest_float_is_above_any_declared_one():
    guard = Guard({"g": Tensor.parse("float64 2 norm 1e308")}, 3, 100)
    assert code_of(guard.check, {"g": np.full(2, 1.5e308)}, 50) == "guard.norm"


def test_rows_behind_which_too_few_users_stand_are_zero():
    """Item 0 has three users, item 1 two, item 2 one; a user counts once however often he touched it."""
    seen = sparse.csr_matrix(np.array([[5, 1, 0], [1, 1, 0], [1, 0, 9]], np.float32))
    square = Guard({"g": Tensor.parse("float32 items x items")}, 3, 100, min_users_per_row=2)
    kept, thin = square.cohort({"g": np.arange(1, 10, dtype=np.float32).reshape(3, 3)}, seen)
    assert kept["g"].tolist() == [[1, 2, 0], [4, 5, 0], [0, 0, 0]]
    assert thin == 1
    for least, expected in ((1, 0), (3, 2), (4, 3)):
        assert Guard(square.leaves, 3, 100, least).cohort({"g": np.ones((3, 3), np.float32)}, seen)[1] == expected


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"rows": 5},
        {"rows": 11, "users": 1},
        {"rows": 1, "users": 4},
        {"rows": -1, "users": 1},
        {"rows": 1.0, "users": 1},
        {"rows": "5", "users": 1},
        {"rows": True, "users": 1},
        {"rows": None, "users": 1},
        {"rows": float("nan"), "users": 1},
    ],
    ids=str,
)
def test_counts_that_cannot_be_true_are_refused(report):
    assert code_of(check_counts, report, 10, 3) == "guard.counts"


def test_counts_at_the_edge_are_taken():
    assert check_counts({"rows": 10, "users": 3}, 10, 3) == (10, 3)
    assert check_counts({"rows": 0, "users": 0, "uid": 5}, 10, 3) == (0, 0)


def sums_of(ranks, federated=None):
    """Of users with one held-out item each, found at these ranks."""
    both = [
        None if r is None else np.pad(values(np.array(r), np.arange(len(r))), ((0, 0), (0, 2)))
        for r in (ranks, federated)
    ]
    return Sums.of(*both).as_dict()


SUMS = sums_of([0, 0, 2])  # NDCG 1, 1 and .5
LOCAL = sums_of([0, 2, 99], [0, 0, 2])  # 1, .5 and 0
TEN = sums_of([0] * 10)
NINE = sums_of([0] * 9)


def test_sums_over_users_are_taken():
    good = {"federated": SUMS, "local": LOCAL, "popularity": {**SUMS, "gap_squares": 0.0}}
    assert check_sums(good, 3) == good
    assert check_sums({}, 3) == {}
    assert check_sums({"local": Sums().as_dict()}, 3)["local"]["users"] == 0
    grouped = {"federated": sums_of([0] * 20), "federated:few": TEN, "federated:many": TEN}
    assert check_sums(grouped, 20) == grouped


RATED = {**SUMS, "rated": 3, "squared": 17.0, "absolute": 5.0}  # errors 4, 1 and 0 on a scale 4 wide


def test_sums_of_errors_are_taken_up_to_the_width_of_the_scale():
    widest = {**SUMS, "rated": 3, "squared": 48.0, "absolute": 12.0}
    for found in (RATED, widest, {**widest, "squared": 0, "absolute": 0}):
        good = {"federated": found, "popularity": {**SUMS, "gap_squares": 0.0}}
        assert check_sums(good, 3, (5, 4.0)) == good
        assert code_of(check_sums, good, 3, (5, 3.3)) == ("" if not found["squared"] else "guard.numbers")
        assert code_of(check_sums, good, 3) == "guard.numbers"  # of a model that ranks


@pytest.mark.parametrize(
    "lie",
    [
        {"rated": 2},  # three users have a held-out row each
        {"rated": 6},  # the institution has five rows
        {"rated": 3.0},
        {"rated": True},
        {"rated": 0},  # and yet errors
        {"squared": 20.1},  # no more than 4 times the absolute ones
        {"squared": 8.3},  # the mean's own square is 25 / 9
        {"absolute": 12.1, "squared": 48.0},
        {"absolute": -1.0},
        {"absolute": float("nan")},
        {"squared": float("inf")},
        {"squared": "17"},
        {"squared": 10**400},
    ],
    ids=str,
)
def test_sums_that_no_errors_can_have_are_refused(lie):
    assert code_of(check_sums, {"federated": {**RATED, **lie}}, 3, (5, 4.0)) == "guard.numbers"


def test_scopes_count_errors_over_the_same_rows():
    other = {**RATED, "rated": 4, "gap_squares": 0.0}
    assert code_of(check_sums, {"federated": RATED, "popularity": {**RATED, "gap_squares": 0.0}}, 3, (5, 4.0)) == ""
    assert code_of(check_sums, {"federated": RATED, "popularity": other}, 3, (5, 4.0)) == "guard.numbers"


@pytest.mark.parametrize(
    "lie",
    [
        {"hr": 2.5},  # hits are whole
        {"ndcg": 3.0, "hr": 2.0},  # a gain without a hit
        {"precision": 0.2},  # each hit is one of ten
        {"recall10": 3.0, "recall": 2.0},  # ten are among twenty
        {"ndcg_squares": 2.6},  # a square of a share is no larger
        {"ndcg_squares": 2.0},  # the mean's own square is 2.08
        {"gap_squares": 0.1},  # nothing differs from itself
    ],
    ids=str,
)
def test_sums_that_cannot_come_from_the_same_users_are_refused(lie):
    assert code_of(check_sums, {"federated": {**SUMS, **lie}}, 3) == "guard.numbers"


@pytest.mark.parametrize(
    "numbers",
    [
        {"federated": SUMS, "local": sums_of([0, 0])},  # other users
        {"federated": SUMS, "local": {**LOCAL, "gap_squares": 0.3}},  # the sums differ by 1: at least 1/3
        {"federated": SUMS, "local": {**sums_of([99, 99, 99]), "gap_squares": 2.6}},  # NDCG 0: exactly 2.25
        {"federated": sums_of([0] * 19), "federated:few": NINE, "federated:many": TEN},  # nine are too few
        {"federated": sums_of([0] * 21), "federated:few": TEN, "federated:many": TEN},  # one is missing
        {"federated:few": TEN},
        {"federated": TEN, "federated:film-3": TEN},
        {"federated": TEN, "federated:few": TEN, "local": TEN},
    ],
    ids=["users", "gap too small", "gap too large", "small group", "groups short", "only a group", "name", "one scope"],
)
def test_scopes_and_groups_that_do_not_belong_together_are_refused(numbers):
    assert code_of(check_sums, numbers, 30) == "guard.numbers"


@pytest.mark.parametrize(
    "numbers",
    [
        None,
        5,
        "x",
        [],
        [SUMS],
        {"other": SUMS},
        {"federated": None},
        {"federated": []},
        {"federated": {}},
        {"federated": {**SUMS, "id": 7}},
        *(
            {"federated": {**SUMS, "hr": value}}
            for value in (3.1, -0.1, float("nan"), float("inf"), "3", None, True, [1])
        ),
        *({"federated": {**SUMS, "users": value}} for value in (4, -1, 2, 3.0, "3", True, None)),
    ],
    ids=str,
)
def test_anything_but_sums_over_users_is_refused(numbers):
    assert code_of(check_sums, numbers, 3) == "guard.numbers"


BINS = [0] * 99
JUDGED = {"users": 3, "log_loss": 2.5, "brier": 0.7, "yes": [1, *BINS], "no": [0, 2, *BINS[1:]]}


def test_counts_of_outcomes_are_taken():
    assert check_outcomes({"federated": JUDGED}, 3) == {"federated": JUDGED}
    nothing = {"users": 0, "log_loss": 0.0, "brier": 0.0, "yes": [0, *BINS], "no": [0, *BINS]}
    assert check_outcomes({"local": nothing}, 3) == {"local": nothing}


@pytest.mark.parametrize(
    "change",
    [
        {"users": 4},
        {"users": 2},
        {"users": True},
        {"log_loss": 105.1},
        {"log_loss": float("nan")},
        {"brier": 3.1},
        {"brier": "0"},
        {"yes": [1] + 98 * [0]},
        {"yes": [1, *BINS, 0]},
        {"yes": [2, *BINS]},
        {"yes": [-1, 2, *BINS[1:]]},
        {"yes": [1.0, *BINS]},
        {"yes": ["canary", *BINS]},
        {"yes": {"canary": 1}},
        {"names": ["canary"]},
    ],
    ids=str,
)
def test_anything_but_counts_of_outcomes_is_refused(change):
    assert code_of(check_outcomes, {"federated": {**JUDGED, **change}}, 3) == "guard.numbers"
    assert code_of(check_outcomes, {"other": JUDGED}, 3) == "guard.numbers"
    assert code_of(check_sums, {"federated": JUDGED}, 3) == "guard.numbers"  # of a model that ranks


# blobs


async def parts(*chunks):
    for chunk in chunks:
        yield chunk


def received(blobs, name, *chunks, limit=10):
    return asyncio.run(blobs.receive("r", name, parts(*chunks), limit))


def test_a_blob_is_stored_under_its_hash_or_not_at_all(tmp_path):
    blobs, name = Blobs(tmp_path), hashlib.sha256(b"hello world"[:10]).hexdigest()
    assert received(blobs, name, b"hello", b"", b" worl") == 10
    assert blobs.path("in", "r", name).read_bytes() == b"hello worl"
    assert code_of(received, blobs, "ab" * 32, b"hello") == "gate.digest"
    assert code_of(received, blobs, "ab" * 32, b"hello", b" world") == "gate.size"
    assert [path.name for path in (tmp_path / "in" / "r").iterdir()] == [name]


def test_a_body_above_the_limit_is_read_no_further(tmp_path):
    taken = []

    async def endless():
        while True:
            taken.append(1)
            yield b"x" * 4

    with pytest.raises(Refused, match=r"gate\.size"):
        asyncio.run(Blobs(tmp_path).receive("r", "ab" * 32, endless(), 10))
    assert len(taken) == 3


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path):
    async def broken():
        yield b"x"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        asyncio.run(Blobs(tmp_path).receive("r", "ab" * 32, broken(), 10))
    assert list((tmp_path / "in" / "r").iterdir()) == []


def test_dropping_a_request_deletes_both_sides_and_no_other_request(tmp_path):
    blobs, name = Blobs(tmp_path), hashlib.sha256(b"a").hexdigest()
    received(blobs, name, b"a")
    asyncio.run(blobs.receive("other", name, parts(b"a"), 10))
    update = tmp_path / "update"
    update.write_bytes(b"u")
    assert blobs.release("r", update, "cd" * 32).read_bytes() == b"u"
    assert not update.exists()
    blobs.drop("out", "r", "ef" * 32)
    blobs.drop_request("r")
    blobs.drop_request("r")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()) == [
        f"in/other/{name}"
    ]
    assert (tmp_path / "in").stat().st_mode & 0o777 == 0o700


def test_a_side_that_is_not_items_keeps_its_numbers():
    seen = sparse.csr_matrix(np.array([[1, 1, 0], [1, 0, 0]], np.float32))
    wide = Guard({"g": Tensor.parse("float32 2 x items"), "n": Tensor.parse("float32 3")}, 3, 100, min_users_per_row=2)
    kept, thin = wide.cohort({"g": np.ones((2, 3), np.float32), "n": np.ones(3, np.float32)}, seen)
    assert (kept["g"].tolist(), kept["n"].tolist(), thin) == ([[1, 0, 0], [1, 0, 0]], [1, 1, 1], 2)
