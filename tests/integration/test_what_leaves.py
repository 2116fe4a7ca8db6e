"""What goes between a scientist and an institution: released updates, counts and sums. Canaries: tests/attacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import real_sites
from real_sites import ADA_PASSWORD, approve_one, approved, events, fresh, own_route, put, run_task

import fedrec
from fedrec.aggregation import SiteUpdate
from fedrec.core.metrics import Sums
from fedrec.core.params import SharedParams
from fedrec.core.threads import one_thread
from fedrec.demo.sites import SCIENTIST, alive, clean_environment
from fedrec.examples.my_factors import MyFactors
from fedrec.exchange.passport import signed_by
from fedrec.exchange.wire import decode, digest, sha256
from fedrec.scientist.driver import begin
from fedrec.scientist.runs import Run

pytestmark = pytest.mark.sites


ECHO = """
class Echo:
    def init(self, n_items, seed):
        return {"v": np.zeros(n_items)}

    def fit_site(self, rows, shared, private):
        return {"v": shared["v"] + 1}, {}

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))
"""


def test_four_sites_are_four_processes_with_identities_and_keys_of_their_own(sites):
    facts = [site.facts for site in sites.all.values()]
    assert (
        len({fact["pid"] for fact in facts})
        == len({fact["uid"] for fact in facts})
        == len({fact["url"] for fact in facts})
        == 4
    )
    assert len({member.key for member in sites.config.member}) == 4
    assert all(alive(fact["pid"]) and fact["pid"] != os.getpid() for fact in facts)
    assert min(fact["jail_level"] for fact in facts) >= 2


@pytest.mark.parametrize("which", ["ease", "own"])
def test_the_model_is_recomputed_from_the_released_files_alone_and_each_site_logged_its_own(
    which, federation, owners, sites
):
    plan = (
        fresh(fedrec.models.Ease(l2=200.0))
        if which == "ease"
        else fresh(code=MyFactors, rounds=3, settings={"factors": 8}, name="own")
    )
    ids = approved(federation, owners, plan).ids
    run, now = Run.start(plan, federation), begin(plan, federation)
    shared, state = now.shared, now.state
    for done in run.rounds():
        updates = []
        for answer in done.answers:
            passport, site = answer.receipt, sites.all[answer.site]
            scientist = federation._sites[answer.site]
            status, data = own_route(
                scientist, "GET", f"/fedrec/v1/blobs/{passport['sha256']}", permit=ids[answer.site]
            )
            assert (status, sha256(data)) == (200, passport["sha256"])
            assert signed_by(passport, next(member.key for member in sites.config.member if member.name == answer.site))
            (event,) = events(site, act="train", request=ids[answer.site], outcome="done", round=done.number)
            assert event["detail"]["sha256"] == passport["sha256"]
            assert event["detail"]["bytes"] == len(data) == passport["bytes"]
            updates.append(SiteUpdate(answer.site, float(passport["rows"]), SharedParams(decode(data))))
        with one_thread():
            step, state = plan.merges.apply(state, shared, updates)
            shared = plan.built.finish(shared, step)
        assert digest(shared.tensors) == digest(done.after.shared.tensors)
    assert digest(shared.tensors) == run.model_sha256


def test_an_update_is_gone_when_the_next_round_begins(federation, owners, sites):
    """The rounds start from different models, and the own code adds 1 to what it starts from: so the updates differ."""
    ada, owner, blobs = federation._sites["aurora"], owners["aurora"], sites.all["aurora"].folder / "state" / "blobs"
    plan = approve_one(ada, owner, fresh(code=ECHO, name="echo", rounds=2), federation.n_items)
    seen = []
    for number in (0, 1):
        base = put(ada, plan.id, {"v": np.full(federation.n_items, number, dtype=np.float32)})
        update = run_task(ada, plan, round=number, base=base)["passport"]["sha256"]
        lying = {side: [path.name for path in (blobs / side / plan.id).iterdir()] for side in ("in", "out")}
        seen.append((base, update, lying))
    (base, update, before), (next_base, next_update, after) = seen
    assert update != next_update
    assert before["out"] == [update]  # after its round it is there, so its end is no accident
    assert base in before["in"]
    assert after["out"] == [next_update]
    assert base not in after["in"]
    assert next_base in after["in"]
    status, said = own_route(ada, "GET", f"/fedrec/v1/blobs/{update}", permit=plan.id)
    assert (status, json.loads(said)["code"]) == (403, "update.gone")


def test_an_evaluation_releases_counts_and_sums_only(federation, owners, sites):
    ada, owner = federation._sites["aurora"], owners["aurora"]
    plan = approve_one(ada, owner, fresh(fedrec.models.ItemCF(), evaluate=True), federation.n_items)
    run_task(ada, plan)
    before = ada.line.counted
    answer = run_task(ada, plan, kind="evaluate")
    assert ada.line.counted[1] - before[1] < 20_000  # three PySyft answers; a list of users alone would be larger
    assert set(answer) == {"status", "numbers", "key"}
    groups = {scope.partition(":")[2] for scope in answer["numbers"]}
    assert groups <= {"", "few", "some", "many"}
    assert {scope.partition(":")[0] for scope in answer["numbers"]} == {"federated", "local", "popularity"}
    for sums in answer["numbers"].values():
        kinds = {field.name: float for field in fields(Sums)} | {"users": int, "rated": int}
        assert {name: type(value) for name, value in sums.items()} == kinds
        assert all(0 <= value <= sums["users"] <= 943 for value in sums.values())
    blobs = sites.all["aurora"].folder / "state" / "blobs"
    assert not [path for path in (blobs / "out" / plan.id).iterdir() if path.name != real_sites.events(
        sites.all["aurora"], act="train", request=plan.id, outcome="done")[0]["detail"]["sha256"]]  # fmt: skip


DRIVER = """
import json, os, sys
from pathlib import Path
import fedrec
from fedrec.scientist.plan import Plan
consortium, plan = Path(sys.argv[1]), Plan.from_text(Path(sys.argv[2]).read_text())
federation = fedrec.connect(consortium)
run = federation.train(plan)
seen = {name: sorted(os.listdir(consortium.parent / name)) for name in federation.sites()}
print(json.dumps({"seen": seen, "model": run.model_sha256, "table": run.evaluate().to_dict()}))
"""


def test_the_driver_needs_no_institutions_data(federation, owners, sites, tmp_path):
    """It runs in a mount of its own, in which every institution's folder is empty."""
    plan = fresh(fedrec.models.ItemCF(), evaluate=True)
    approved(federation, owners, plan)
    (tmp_path / "plan.toml").write_text(plan.text)
    hide = " && ".join(f"mount -t tmpfs none '{site.folder}'" for site in sites.all.values())
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    done = subprocess.run(
        ["unshare", "--mount", *user, "sh", "-c", f'{hide} && exec "$@"', "sh", sys.executable, "-c", DRIVER,
         str(sites.consortium), str(tmp_path / "plan.toml")],
        capture_output=True, text=True, timeout=120, check=False,
        env=clean_environment(FEDREC_USER=SCIENTIST, FEDREC_PASSWORD=ADA_PASSWORD),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["seen"] == {name: [] for name in sites.all}
    assert all((site.folder / "data" / "ratings.csv").exists() for site in sites.all.values())
    same = real_sites.simulated(sites).train(plan)
    assert report["model"] == same.model_sha256
    assert report["table"] == json.loads(json.dumps(same.evaluate().to_dict()))
