"""Encrypted sums over four real datasites: the simulated model to the bit, and an institution that says no."""

from __future__ import annotations

import numpy as np
import pytest
import real_sites
from real_sites import approved, fresh

import fedrec
from fedrec.errors import Refused
from fedrec.exchange import ckks, ckks_plan
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.wire import decode, encode
from fedrec.institution import audit
from fedrec.institution.evidence.reconcile import reconcile
from fedrec.institution.ledger import Ledger
from fedrec.institution.shared_key import SharedKey, share, take
from fedrec.scientist import datasites, site_calls
from fedrec.scientist.datasites import Datasites

pytestmark = pytest.mark.sites
ENCRYPTED = Privacy("ckks")


@pytest.fixture(scope="module")
def folders(sites, tmp_path_factory):
    """The institutions, once they share a key: while they run, the first makes it and the others take it."""
    found, out = {name: site.folder for name, site in sites.all.items()}, tmp_path_factory.mktemp("carried")
    first, *others = found
    share(found[first], out, new=False)
    for name in others:
        take(found[name], out / f"{name}.key.json")
    yield found
    for folder in found.values():
        (folder / "state" / "keys" / "ckks.json").unlink()


@pytest.fixture(scope="module")
def simulated(sites):
    return real_sites.simulated(sites)


def test_a_gradient_model_is_the_simulated_one_to_the_bit_and_nothing_readable_left(
    folders, federation, owners, simulated
):
    plan = fresh(fedrec.models.MF(factors=8), rounds=2, privacy=ENCRYPTED)
    requests = approved(federation, owners, plan)
    real = federation.train(plan)
    assert [line["model"] for line in real.log] == [line["model"] for line in simulated.train(plan).log]
    for name, sha in real.log[1]["updates"].items():
        left = decode((folders[name] / "state" / "blobs" / "out" / requests.ids[name] / sha).read_bytes())
        assert sorted(left) == ["bfv", "tag"]  # numbers of 64 bits, and the weight
        assert abs(np.unpackbits(left["bfv"][..., :6]).mean() - 0.5) < 0.001  # of the seventh byte two bits are 0
    first = next(iter(folders))
    acts = [event for event in audit.read(folders[first], "decrypt") if event["run"] == real.id]
    assert [(event["outcome"], event["round"]) for event in acts] == [
        ("intent", 0), ("done", 0), ("intent", 1), ("done", 1),
    ]  # fmt: skip
    assert [one for one in reconcile(folders[first]) if one.where == "updates"] == []
    made = folders[first] / "state" / "blobs" / "out" / requests.ids[first] / acts[1]["detail"]["sha256"]
    assert made.exists()  # a sum lies there as long as it may be fetched; one that nobody decrypted would be found
    (made.parent / ("0" * 64)).write_bytes(b"x")
    assert {one.kind for one in reconcile(folders[first]) if one.where == "updates"} == {"act without event", "differs"}
    (made.parent / ("0" * 64)).unlink()


def spent(federation, folders, plan):
    """Train rounds that each institution has counted under the plan."""
    found = []
    for name, own in federation.requests_of(plan).items():
        ledger = Ledger(folders[name] / "state" / "ledger.sqlite")
        found.append(ledger.used(own["id"]).get("train", 0))
        ledger.close()
    return found


def test_counts_are_exact(folders, federation, owners, simulated):
    plan = fresh(fedrec.models.Popularity(), privacy=ENCRYPTED)
    approved(federation, owners, plan)
    assert federation.train(plan).model_sha256 == simulated.train(fresh(fedrec.models.Popularity())).model_sha256


def test_an_institution_decrypts_no_single_update_for_the_scientist(folders, federation, owners, monkeypatch):
    """He sends one institution's update in place of the sum, with everybody's tags.

    Control: the institution's key, used without a look at the tags, reads it.
    """
    plan = fresh(fedrec.models.Popularity(), privacy=ENCRYPTED, seed=1)
    approved(federation, owners, plan)
    names, fetched, wishes = list(federation.sites()), dict[str, dict](), []
    fetch, ask_about = Datasites.fetch, Datasites.ask_about

    def watched(self, answer):
        found = fetch(self, answer)
        fetched[answer.site] = found[1]
        return found

    def wished(self, answer, what, data):
        one = {name: part for name, part in fetched[names[1]].items() if name != "tag"}
        wishes.append(one)
        return ask_about(self, answer, what, encode({**one, "tags": decode(data)["tags"]}))

    monkeypatch.setattr(Datasites, "fetch", watched)
    monkeypatch.setattr(Datasites, "ask_about", wished)
    with pytest.raises(Refused) as refused:
        federation.train(plan)
    assert refused.value.code == "ckks.sum"
    key = SharedKey.load(folders[names[0]] / "state").key
    layout = ckks_plan.layout_of(plan.spec, federation.n_items, len(names))
    found = ckks.decrypt(ckks.unpack(wishes[0], layout), key, layout)
    assert all(array.any() for array in found.values())


def test_an_institution_without_the_key_or_with_another_stops_the_run_and_is_named(
    folders, federation, owners, monkeypatch
):
    plan = fresh(fedrec.models.Popularity(), privacy=ENCRYPTED, seed=5)
    approved(federation, owners, plan)
    name = list(folders)[2]
    path = folders[name] / "state" / "keys" / "ckks.json"
    kept = path.read_text()
    try:
        path.unlink()
        with pytest.raises(Refused, match=r"ckks.key.*no shared key"):
            federation.train(plan)
        SharedKey(1, ckks.make_key()).save(folders[name] / "state")
        other = fresh(fedrec.models.Popularity(), privacy=ENCRYPTED, seed=6)
        approved(federation, owners, other)
        with pytest.raises(Refused, match=rf"ckks.differ.*{name} approved"):
            federation.train(other)
        assert spent(federation, folders, other) == [0] * len(folders)
        monkeypatch.setattr(datasites, "check_shared", lambda keys: None)
        monkeypatch.setattr(site_calls, "check_shared", lambda keys: None)
        with pytest.raises(Refused, match=rf"ckks.tag.*{name}"):  # the control: each institution has spent a round
            federation.train(other)
        assert spent(federation, folders, other) == [1] * len(folders)
    finally:
        path.write_text(kept)
    monkeypatch.undo()
    with pytest.raises(Refused, match=rf"ckks.differ.*{name} approved"):  # the permit is of the other key still
        federation.train(other)
