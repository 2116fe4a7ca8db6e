"""The secure sum: masks that cancel in the whole sum and in nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

import fedrec
from fedrec import models
from fedrec.aggregation import (
    CoordinateMedian,
    GradientSum,
    Krum,
    Mean,
    NormBound,
    Quorum,
    Stop,
    Sum,
    TrimmedMean,
    WeightedMean,
)  # fmt: skip
from fedrec.aggregation.schedules import Buffered
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.plan import PlanText
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.secure_sum import WEIGHT, add, from_ring, masked, to_ring
from fedrec.models.local import LocalEpochs

N = 6  # items
SECURE = Privacy("secure")
EASE, MF = models.create("ease", {}), models.create("mf", {"factors": 4})


def plan(model=MF, **given) -> PlanText:
    return fedrec.Plan(model=model, privacy=SECURE, **given).spec


def keys(count: int) -> dict[str, SigningKey]:
    return {f"site-{number}": SigningKey(bytes([number + 1]) * 32) for number in range(count)}


def public(own: dict[str, SigningKey]) -> dict[str, str]:
    return {name: key.verify_key.encode().hex() for name, key in own.items()}


def updates(count: int, seed: int, shape=(N, 4)) -> list[np.ndarray]:
    draws = np.random.default_rng(seed)
    return [draws.normal(size=shape).astype(np.float32) for _ in range(count)]


def all_masked(spec: PlanText, name: str, arrays, weights, context=b"round 0", held=None):
    held = held or keys(len(arrays))
    rings = [to_ring(spec, {name: a}, w, w, len(arrays), N) for a, w in zip(arrays, weights, strict=True)]
    return rings, [masked(r, site, held[site], public(held), context) for r, site in zip(rings, held, strict=True)]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 50), st.integers(0, 10**9), st.integers(0, 2**32 - 1))
def test_the_masks_cancel_and_the_mean_is_that_of_the_centre(count, heaviest, seed):
    weights = [int(w) for w in np.random.default_rng(seed).integers(0, heaviest + 1, count)]
    weights[0] = max(1, weights[0])
    arrays = updates(count, seed)
    _, sent = all_masked(plan(), "items", arrays, weights)
    got = from_ring(plan(), add(plan(), sent, N), count)["items"]
    exact = sum(w * a.astype(np.float64) for w, a in zip(weights, arrays, strict=True)) / sum(weights)
    np.testing.assert_allclose(got, exact, rtol=0, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 50), st.integers(0, 2**32 - 1))
def test_whole_numbers_add_up_exactly(count, seed):
    draws = np.random.default_rng(seed)
    arrays = [draws.integers(0, 10**6, (N, N)).astype(np.float32) for _ in range(count)]
    _, sent = all_masked(plan(EASE), "gram", arrays, [1] * count)
    got = from_ring(plan(EASE), add(plan(EASE), sent, N), count)["gram"]
    assert np.array_equal(got, sum(a.astype(np.float64) for a in arrays).astype(np.float32))


def test_a_masked_update_is_no_longer_than_its_fixed_point_numbers_and_whole_numbers_no_longer_than_floats():
    (ring,), (sent,) = all_masked(plan(EASE), "gram", [np.ones((N, N), np.float32)], [1])
    assert sent["gram"].nbytes == ring["gram"].nbytes == 4 * N * N
    small = plan(fixed={"items": (10, 16)})
    _, sent = all_masked(small, "items", [np.zeros((N, 4), np.float32)] * 3, [1] * 3)
    assert sent[0]["items"].nbytes == 2 * N * 4
    assert small.travels(N) == 2 * N * 4


def test_a_masked_update_looks_like_noise_and_changes_wholly_with_the_round():
    big = fedrec.Plan(model=models.create("mf", {"factors": 64}), privacy=SECURE).spec
    zero = [{"items": np.zeros((500, 64), np.float32)}] * 3
    held = keys(3)
    rings = [to_ring(big, one, 1, 1, 3, 500) for one in zero]
    assert not rings[0]["items"].any()  # the control: without masks it is all there
    first, later = (masked(rings[0], "site-0", held["site-0"], public(held), c)["items"] for c in (b"0", b"1"))
    for sent in (first, later, first - later):
        ones = np.unpackbits(sent.view(np.uint8)).mean()
        assert abs(ones - 0.5) < 0.003  # 2 million bits: ten standard errors
        assert len(np.unique(sent)) == sent.size


@pytest.mark.parametrize("colluding", [2, 3])
def test_what_the_centre_and_all_but_two_members_know_together_shows_nothing_of_either(colluding):
    """Of four members two collude with the centre; the control has three, who can always subtract their own."""
    arrays, held = updates(4, 1), keys(4)
    rings, sent = all_masked(plan(), "items", arrays, [1] * 4, held=held)
    known = {name: key for name, key in held.items() if name != "site-0"}
    if colluding == 2:
        known.pop("site-1")
    opened = sent[0]["items"].copy()
    for name, key in known.items():  # each colluder makes the mask that it shares with site-0
        pair = {"site-0": public(held)["site-0"], name: public(held)[name]}
        nothing = {"items": np.zeros_like(opened), WEIGHT: np.zeros(1, np.uint64)}
        opened += masked(dict(sorted(nothing.items())), name, key, pair, b"round 0")["items"]
    assert np.array_equal(opened, rings[0]["items"]) == (colluding == 3)


def test_a_swapped_key_cannot_be_brought_in_by_who_carries_the_updates():
    """The keys are each site's own copy of consortium.toml; a set with another key gives noise, not the sum."""
    arrays, held = updates(3, 2), keys(3)
    rings = [to_ring(plan(), {"items": a}, 1, 1, 3, N) for a in arrays]
    evil = SigningKey(b"e" * 32)
    pinned = public(held)
    swapped = {**pinned, "site-2": evil.verify_key.encode().hex()}
    sent = masked(rings[0], "site-0", held["site-0"], swapped, b"c")
    others = [masked(rings[k], f"site-{k}", held[f"site-{k}"], pinned, b"c") for k in (1, 2)]
    total = add(plan(), [sent, *others], N)
    assert not 0 < total[WEIGHT][0] <= 3
    with pytest.raises(Refused) as refused:
        masked(rings[2], "site-2", held["site-2"], swapped, b"c")
    assert refused.value.code == "sum.keys"
    for bad in ("", "00" * 32, "xyz"):
        with pytest.raises(Refused) as refused:
            masked(rings[0], "site-0", held["site-0"], {**pinned, "site-1": bad}, b"c")
        assert refused.value.code == "sum.keys"


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e30, 1e30), st.integers(0, 2 * 10**9), st.integers(2, 50), st.sampled_from([8, 16, 32, 64]))
def test_a_number_that_would_wrap_is_refused_and_never_wraps(value, weight, members, width):
    spec = plan(fixed={"items": (4, width)})
    array = np.full((N, 4), value, np.float32)
    if weight > 10**9 or np.rint(abs(float(array[0, 0])) * weight * 16) > (2 ** (width - 1) - 1) // members:
        with pytest.raises(Refused) as refused:
            to_ring(spec, {"items": array}, weight, weight, members, N)
        assert refused.value.code == "sum.range"
        return
    ring = to_ring(spec, {"items": array}, weight, weight, members, N)
    got = from_ring(spec, add(spec, [ring] * members, N), members) if weight else None
    if got is not None:
        np.testing.assert_allclose(got["items"], array, rtol=1e-6, atol=1 / 16)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(bad):
    with pytest.raises(Refused) as refused:
        to_ring(plan(), {"items": np.full((N, 4), bad, np.float32)}, 1, 1, 3, N)
    assert refused.value.code == "sum.range"


@pytest.mark.parametrize(
    "change",
    [
        lambda ring: ring | {"more": ring["items"]},
        lambda ring: {"items": ring["items"]},
        lambda ring: ring | {"items": ring["items"][:1]},
        lambda ring: ring | {"items": ring["items"].astype(np.float64)},
    ],
)
def test_the_centre_refuses_what_is_no_masked_update(change):
    _, sent = all_masked(plan(), "items", updates(3, 0), [1] * 3)
    with pytest.raises(Refused) as refused:
        add(plan(), [*sent[:2], change(sent[2])], N)
    assert refused.value.code in ("update.shape", "update.dtype")


EXCLUDED = {
    "coordinate rules": {"aggregator": CoordinateMedian()},
    "trimmed means": {"aggregator": TrimmedMean()},
    "krum": {"aggregator": Krum()},
    "norm bounding at the centre": {"aggregator": NormBound()},
    "weights by quality": {"aggregator": WeightedMean("model-quality"), "train": ("p1",)},
    "a stop by validation": {"stop": Stop(patience=2), "train": ("p1",)},
    "a rate for each institution": {"aggregator": GradientSum.of({"a": 0.1})},
    "asynchronous rounds": {"schedule": Buffered()},
    "SCAFFOLD": {"local": LocalEpochs(1, scaffold=True, optimiser="sgd"), "aggregator": Mean()},
    "sums of parameters": {"local": LocalEpochs(1), "aggregator": Sum()},
    "a codec": {"codec": "int8"},
    "two institutions": {"sites": ("a", "b")},
}


@pytest.mark.parametrize("what", EXCLUDED)
def test_a_secure_sum_excludes(what):
    with pytest.raises(Refused) as refused:
        fedrec.Plan(model=MF, privacy=SECURE, **EXCLUDED[what])
    assert refused.value.code == "plan.sum"
    assert refused.value.next_step.startswith("Use ")
    fedrec.Plan(model=MF, **EXCLUDED[what])  # the control: without the secure sum it is a plan


def test_a_quorum_and_local_epochs_go_with_a_secure_sum():
    made = fedrec.Plan(model=MF, privacy=SECURE, schedule=Quorum(3), local=LocalEpochs(2))
    assert PlanText.parse(made.text).protects == SECURE


def test_fixed_point_forms_without_a_sum_are_not_ignored():
    with pytest.raises(WrongInput, match="fixed"):
        fedrec.Plan(model=MF, fixed={"items": (12, 32)})
