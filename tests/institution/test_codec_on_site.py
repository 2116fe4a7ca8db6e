"""Updates that travel in fewer bytes: the site rounds after its guard, keeps what it lost, and equals the simulation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_site import approved, ended, recipe, sent, task, train

import fedrec
from fedrec import models
from fedrec.config.site import Limits
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.codec import CODECS, unpack_update
from fedrec.exchange.plan import PlanText
from fedrec.exchange.wire import decode
from fedrec.institution import policy
from fedrec.institution.evidence.replay import replay
from fedrec.institution.guard import Guard
from fedrec.institution.limits import check_limits
from fedrec.institution.outgoing import packed
from fedrec.institution.review import details, text_of
from fedrec.institution.store import Store
from fedrec.models import LocalEpochs
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation

codecs = pytest.mark.parametrize("name", ["float16", "int8"])
ITEMS = np.random.default_rng(0).normal(0, 0.15, (8, 4)).astype(np.float32)


def plan(name, **more) -> PlanText:
    return replace(recipe("mf", rounds=3), codec={"name": name}, **more)


def out(site, row, passport):
    return decode(site.blobs.path("out", row.id, passport["sha256"]).read_bytes())


@codecs
@pytest.mark.parametrize("local", [None, LocalEpochs(2, batch=4)], ids=["gradient", "parameters"])
def test_over_three_rounds_a_site_sends_what_the_simulation_merges_to_the_bit(site, jobs, name, local):
    spec = plan(name, **({"local": local.table(), "aggregator": {"name": "mean"}} if local else {}))
    made = fedrec.Plan.from_text(spec.text())
    run = Run.start(made, SimulatedFederation({"a": Store.open(site.state).rows()}, 8), protocol="p1")
    row, base = approved(site, spec), run.shared
    for done in run.rounds():
        passport = train(site, jobs, row, base.tensors, number=done.number)["passport"]
        found = unpack_update(CODECS[name], out(site, row, passport), base.tensors if local else None)
        assert found["items"].tobytes() == done.answers[0].update.tensors["items"].tobytes()
        base = done.after.shared
    assert passport["bytes"] < ITEMS.nbytes + 400


@codecs
def test_what_rounding_lost_stays_at_the_site_and_leaves_with_the_next_update(site, jobs, name):
    row, exact = approved(site, plan(name)), approved(site, recipe("mf", rounds=3))
    sums, lost = {}, {}
    for which, request in (("coded", row), ("exact", exact)):
        for number in range(3):
            start = {"items": ITEMS + np.float32(number)}
            arrays = out(site, request, train(site, jobs, request, start, number=number)["passport"])
            arrays = CODECS[name].unpack(arrays) if which == "coded" else arrays
            sums[which] = sums.get(which, 0) + arrays["items"].astype(np.float64)
    folder = site.state / "private" / row.id / "r"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{n}.{kind}" for n in (1, 2) for kind in ("rest", "safetensors")
    ]
    lost = decode((folder / "2.rest").read_bytes())["items"]
    assert np.abs(lost).max() > 0
    np.testing.assert_allclose(sums["coded"] + lost, sums["exact"], rtol=0, atol=1e-6)


def test_a_round_done_again_sends_the_same_bytes_and_a_lost_rest_is_refused(site, jobs):
    row = approved(site, plan("int8"))
    train(site, jobs, row, {"items": ITEMS})
    first = train(site, jobs, row, {"items": ITEMS}, number=1)["passport"]["sha256"]
    assert train(site, jobs, row, {"items": ITEMS}, number=1)["passport"]["sha256"] == first  # another nonce
    (site.state / "private" / row.id / "r" / "1.rest").unlink()
    assert ended(site, jobs, row, task(sent(site, row, {"items": ITEMS}), number=2))["code"] == "task.round"


def test_the_guard_looks_at_the_true_arrays_and_at_what_the_centre_will_read():
    spec = plan("float16")
    guard = Guard(spec.leaves, 8, 10**6)
    for wrong, code in (
        ({"items": np.full((8, 4), np.nan, np.float32)}, "guard.finite"),
        ({"items": np.zeros((8, 5), np.float32)}, "guard.shape"),
        ({"items": ITEMS, "rows": ITEMS}, "guard.name"),
        ({"items": ITEMS.astype(np.float16)}, "guard.dtype"),
        ({"items": ITEMS * np.float32(1e6)}, "codec.range"),
    ):
        with pytest.raises(Refused) as refused:
            packed(spec, guard, wrong, {}, {})
        assert refused.value.code == code
    data, _ = packed(spec, guard, {"items": ITEMS}, {}, {})
    assert {name: str(array.dtype) for name, array in decode(data).items()} == {"items": "float16"}
    with pytest.raises(Refused, match=r"guard\.bytes"):  # the limit is on what travels
        packed(spec, replace(guard, max_bytes=len(data) - 1), {"items": ITEMS}, {}, {})
    packed(spec, replace(guard, max_bytes=len(data)), {"items": ITEMS}, {}, {})


def test_rows_behind_which_too_few_users_stand_leave_as_nothing_in_every_round(tmp_path):
    spec, thin = plan("int8"), np.array([3])
    guard, rest = Guard(spec.leaves, 8, 10**6, 2), {}
    for number in range(3):
        arrays = {"items": ITEMS * np.float32(1 + number)}
        arrays["items"][thin] = 0  # as `Guard.cohort` leaves them
        data, rest = packed(spec, guard, arrays, {}, rest)
        assert not decode(data)["items"][thin].any()
        assert not decode(data)["scale.items"][thin].any()


def test_parameters_of_another_shape_than_the_model_are_refused_not_broadcast():
    with pytest.raises(Refused, match=r"codec\.form"):
        unpack_update(CODECS["float16"], {"items": np.zeros((1, 4), np.float16)}, {"items": ITEMS})


def test_a_site_allows_by_what_travels_and_its_owner_reads_it(site):
    big = replace(plan("int8"), leaves=models_leaves(64))
    with pytest.raises(Refused, match=r"plan\.bytes"):
        check_limits(replace(big, codec={}), site.config, n_items=6000)
    check_limits(big, site.config, n_items=6000)
    assert big.travels(1682) == 114_376
    row = approved(site, plan("int8"))
    text = text_of(details(row, {}, "2026-01-01T00:00:00Z", 8, Limits(), None))
    assert "64 bytes a round" in text
    assert "whole numbers from -127 to 127" in text


def models_leaves(factors):
    return fedrec.Plan(model=models.MF(factors=factors)).spec.leaves


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"model": models.Ease()}, "statistic"),
        ({"model": models.MF(), "codec": "int4"}, "unknown codec"),
        ({"model": models.MF(), "norms": {"items": 1.0}}, "norm"),
    ],
)
def test_a_plan_that_a_codec_would_spoil_is_refused_when_it_is_made(more, says):
    with pytest.raises(WrongInput, match=says):
        fedrec.Plan(**{"codec": "int8", **more})


def test_a_text_with_a_wrong_codec_is_no_plan():
    text = plan("int8").text()
    for wrong in (text.replace('name = "int8"', 'name = "float32"'), text.replace("items x 4", "items x 4 norm 1.0")):
        with pytest.raises(Refused, match=r"request\.form"):
            PlanText.parse(wrong)
    assert fedrec.Plan(model=models.MF(), codec="float32").text == fedrec.Plan(model=models.MF()).text


def test_an_auditor_who_does_the_rounds_again_gets_the_bytes_that_left(site, jobs, jail):
    site.audit.start("a", {}, {"data_version": site.store.version, **policy.keep(site)})
    row = approved(site, plan("int8", local=LocalEpochs(2, batch=4).table(), aggregator={"name": "mean"}))
    for number in range(3):
        train(site, jobs, row, {"items": ITEMS + np.float32(number)}, number=number)
    again = list(replay(site.folder, "r", jail))
    assert [(one.round, one.same) for one in again] == [(0, True), (1, True), (2, True)]
