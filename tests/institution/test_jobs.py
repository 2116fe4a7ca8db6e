"""Tasks under permits: once, found again after a restart, ended by a revocation, cleaned up after their round."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter

import numpy as np
import pytest
from small_site import ITEMS, OWNER, START, VECTOR, approved, ended, events, own, recipe, sent, submitted, task, train

from fedrec.errors import Refused
from fedrec.exchange.passport import check, signed_by
from fedrec.exchange.wire import decode
from fedrec.institution import audit
from fedrec.institution.decisions import Decisions
from fedrec.institution.intake import take_in_folder
from fedrec.institution.jobs import Jobs
from fedrec.institution.permit import Task
from fedrec.institution.site import Site

SLOW = "import time\ntime.sleep(1)"


def files(site, side, row):
    return sorted(path.name for path in site.blobs.path(side, row.id, "x").parent.glob("*"))


def refused(site, jobs, row, raw):
    with pytest.raises(Refused) as caught:
        jobs.start(row.key, row.fingerprint, raw)
    return caught.value.code


def test_an_update_is_the_sum_over_the_train_rows_and_its_passport_is_the_sites(site, jobs):
    row = approved(site, recipe("popularity"))
    answer = train(site, jobs, row)
    passport = answer["passport"]
    check(
        passport,
        key=site.keys.public,
        site="a",
        run="r",
        round=0,
        request=row.id,
        plan=row.fingerprint,
        rows=18,
        users=6,
    )
    data = site.blobs.path("out", row.id, passport["sha256"]).read_bytes()
    # each user's first three films: film f by the users f-2, f-1, f that are 0 to 5
    assert decode(data)["counts"].tolist() == [1, 2, 3, 3, 3, 3, 2, 1]
    assert len(data) == passport["bytes"]
    assert "canary" not in json.dumps(answer)


def test_the_same_task_sent_twice_is_one_training_with_one_answer(site, jobs):
    row = approved(site, recipe())
    raw = task(sent(site, row, START))
    first = ended(site, jobs, row, raw)
    assert ended(site, jobs, row, raw) == first
    assert events(site) == ["intent", "done"]
    assert site.ledger.used(row.id) == {"train": 1}


def test_control_another_nonce_is_another_training(site, jobs):
    row = approved(site, recipe())
    assert [train(site, jobs, row)["status"] for _ in range(2)] == ["done", "done"]
    assert events(site) == ["intent", "done"] * 2
    assert train_code(site, jobs, row) == "permit.rounds"  # two runs of one round were asked for


@pytest.mark.parametrize(("change", "code"), [({"number": 1}, None), ({"run": "s"}, None), ({}, "task.nonce")])
def test_a_nonce_is_of_one_task_of_a_round(change, code, site, jobs):
    """Another model under the nonce of a round that was trained is refused; another round or run has its own nonces."""
    row = approved(site, own(rounds=2, runs=2))
    nonce = "7" * 32
    assert train(site, jobs, row, VECTOR, nonce=nonce)["status"] == "done"
    raw = task(sent(site, row, {"v": np.ones(8, np.float32)}), nonce=nonce, **change)
    if code:
        assert refused(site, jobs, row, raw) == code
        assert (site.ledger.used(row.id), events(site)[-1]) == ({"train": 1}, code)
    else:
        assert ended(site, jobs, row, raw)["status"] == "done"


def train_code(site, jobs, row, **more):
    return refused(site, jobs, row, task(sent(site, row, START), **more))


def test_eight_threads_that_send_one_task_train_once_and_every_intent_has_its_outcome(site, jobs):
    row = approved(site, own(SLOW))
    raw, answers, barrier = task(sent(site, row, VECTOR)), [], threading.Barrier(8)

    def call():
        barrier.wait()
        answers.append(ended(site, jobs, row, raw))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer["status"] for answer in answers] == ["done"] * 8
    assert len({json.dumps(answer, sort_keys=True) for answer in answers}) == 1
    outcomes = Counter(events(site))
    assert outcomes.pop("done") == 1
    assert outcomes.pop("intent") == 1 + sum(outcomes.values())
    assert set(outcomes) <= {"repeated"}


def test_a_call_answers_within_a_second_and_the_wait_holds_no_thread(site, jobs):
    row = approved(site, own(SLOW))
    began = time.monotonic()
    answer = jobs.start(row.key, row.fingerprint, task(sent(site, row, VECTOR)))
    assert time.monotonic() - began < 1
    assert answer["status"] == "running"

    async def fifty():
        return await asyncio.gather(*(jobs.wait(answer["key"], 10) for _ in range(50)))

    before = threading.active_count()
    assert {found["status"] for found in asyncio.run(fifty())} == {"done"}
    assert threading.active_count() <= before + 1


def test_an_unknown_plan_job_or_model_is_refused(site, jobs):
    row = approved(site, recipe())
    with pytest.raises(Refused, match=r"permit\.missing"):
        jobs.start("ff" * 32, row.fingerprint, task("ab" * 32))  # another scientist's key
    with pytest.raises(Refused, match=r"permit\.missing"):
        jobs.start(row.key, "ff" * 32, task("ab" * 32))
    with pytest.raises(Refused, match=r"job\.missing"):
        jobs.answer("ab" * 16)
    assert refused(site, jobs, row, task("ab" * 32)) == "task.base"
    assert refused(site, jobs, row, {**task("ab" * 32), "more": "1"}) == "task.form"
    assert site.ledger.used(row.id) == {}
    assert events(site) == ["intent", "task.base"]


def test_a_plan_that_waits_is_refused_with_nothing_reserved(site, jobs):
    row = submitted(site, recipe())
    assert refused(site, jobs, row, task(sent(site, row, START))) == "permit.missing"
    assert site.ledger.used(row.id) == {}


@pytest.mark.parametrize("after", [0.0, 0.3])
def test_a_revocation_ends_the_running_job_and_deletes_what_had_not_left(after, site, jobs):
    row = approved(site, own("import time\ntime.sleep(2.5)"))
    answer = jobs.start(row.key, row.fingerprint, task(sent(site, row, VECTOR)))
    assert answer["status"] == "running"
    time.sleep(after)
    began = time.monotonic()
    Decisions(site, jobs).undo(OWNER, row.id, "not any more", lambda: True)
    with pytest.raises(Refused, match=r"permit\.revoked.*not any more"):
        asyncio.run(jobs.wait(answer["key"], 10))
    assert time.monotonic() - began < 1  # the promise is five seconds
    assert files(site, "in", row) + files(site, "out", row) == []
    assert site.ledger.job(answer["key"]).status == "refused"
    assert events(site)[0] == "intent"
    assert events(site)[1] in ("jail.stopped", "permit.revoked")
    assert refused(site, jobs, row, task(answer["key"] * 2)) in ("permit.revoked", "task.base")


def test_a_finished_update_is_gone_after_a_revocation(site, jobs):
    row = approved(site, recipe())
    answer = train(site, jobs, row)
    assert files(site, "out", row) == [answer["passport"]["sha256"]]
    Decisions(site, jobs).undo(OWNER, row.id, "no", lambda: True)
    assert files(site, "out", row) == []
    with pytest.raises(Refused, match=r"permit\.revoked"):
        jobs.answer(answer["key"])


def reopened(site):
    """The same folder after the process was killed: nothing of the old objects is used again."""
    return Site.open(site.folder)


def test_a_running_job_is_finished_once_after_a_restart(site, jail):
    first = Jobs(site, jail)
    row = approved(site, own(SLOW))
    raw = task(sent(site, row, VECTOR))
    key = first.start(row.key, row.fingerprint, raw)["key"]
    first.close()
    assert site.ledger.job(key).status == "running"
    again = reopened(site)
    second = Jobs(again, jail)
    assert second.recover() == 1
    answer = asyncio.run(second.wait(key, 10))
    assert answer["status"] == "done"
    assert ended(again, second, row, raw) == answer
    assert events(again) == ["intent", "intent", "done"]  # the second after the restart
    second.close()
    third = reopened(again)
    assert Jobs(third, jail).recover() == 0
    third.close()
    again.close()


def test_a_job_reserved_just_before_a_kill_is_done_after_the_restart(site, jail):
    row = approved(site, recipe())
    raw = Task.parse(task(sent(site, row, START)))
    site.ledger.reserve(raw.key(row.id), row.id, raw, site.now(), site.here)
    again = reopened(site)
    jobs = Jobs(again, jail)
    assert jobs.recover() == 1
    assert asyncio.run(jobs.wait(raw.key(row.id), 10))["passport"]["rows"] == 18
    jobs.close()
    again.close()


def test_a_job_of_a_permit_revoked_before_the_restart_is_refused_and_its_model_deleted(site, jail):
    row = approved(site, recipe())
    raw = Task.parse(task(sent(site, row, START)))
    site.ledger.reserve(raw.key(row.id), row.id, raw, site.now(), site.here)
    site.ledger.decide(row.id, "revoked", OWNER.email, site.now(), "no")
    jobs = Jobs(site, jail)
    jobs.recover()
    with pytest.raises(Refused, match=r"permit\.revoked"):
        asyncio.run(jobs.wait(raw.key(row.id), 10))
    jobs.close()
    assert files(site, "in", row) == []
    assert site.ledger.job(raw.key(row.id)).status == "refused"


def test_a_full_disk_at_the_end_of_a_job_does_not_lose_it(site, jobs):
    """The outcome cannot be written: a refusal for now. With room again, the same task gives its answer."""
    row = approved(site, own(SLOW))
    raw = task(sent(site, row, VECTOR))
    key = jobs.start(row.key, row.fingerprint, raw)["key"]
    spare, full = os.dup(site.audit._file), os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, site.audit._file)
    found = asyncio.run(jobs.wait(key, 5))
    assert (found["status"], found["code"]) == ("refused", "audit.write")
    assert site.ledger.job(key).status == "running"
    os.dup2(spare, site.audit._file)
    os.close(spare)
    os.close(full)
    assert ended(site, jobs, row, raw)["status"] == "done"
    assert events(site) == ["intent", "done"]
    assert audit.verify(site.audit.path).verdict == "ok"


def test_the_blobs_of_a_round_are_deleted_when_the_next_one_begins(site, jobs):
    row = approved(site, own())
    first = train(site, jobs, row, VECTOR, number=0)["passport"]
    assert files(site, "in", row) == [first["base"]]
    assert files(site, "out", row) == [first["sha256"]]
    second = train(site, jobs, row, {"v": np.ones(8, np.float32)}, number=1)["passport"]
    assert files(site, "in", row) == [second["base"]]
    assert files(site, "out", row) == [second["sha256"]]
    third = train(site, jobs, row, {"v": np.full(8, 2, np.float32)}, number=2)
    assert sorted(p.name for p in (site.state / "private" / row.id / "r").iterdir()) == [
        "1.safetensors",
        "2.safetensors",
    ]
    assert not list((site.state / "jobs").iterdir())
    assert third["status"] == "done"
    assert ended(site, jobs, row, task(sent(site, row, VECTOR), "evaluate", number=2))["status"] == "done"
    assert files(site, "in", row) + files(site, "out", row) == []


def test_a_round_starts_from_the_private_state_of_the_round_before(site, jobs):
    """`users` counts the rounds; a wrong start would make the contribution other than 1, 2, 3."""
    code = 'count = private.get("users", np.zeros(6)) + 1\nreturn {"v": np.full(8, count[0])}, {"users": count}'
    row = approved(site, own(code))
    for number in (0, 1, 2):
        passport = train(site, jobs, row, {"v": np.full(8, number, np.float32)}, number=number)["passport"]
        sums = decode(site.blobs.path("out", row.id, passport["sha256"]).read_bytes())
        assert sums["v"].tolist() == [number + 1] * 8
    passport = train(site, jobs, row, {"v": np.full(8, 2, np.float32)}, number=2)[
        "passport"
    ]  # once more, another nonce
    assert decode(site.blobs.path("out", row.id, passport["sha256"]).read_bytes())["v"].tolist() == [3] * 8


def test_evaluation_is_once_per_round_and_protocol_and_after_training_only(site, jobs):
    row = approved(site, recipe("popularity"))
    assert train_code(site, jobs, row, kind="evaluate") == "permit.protocol"
    train(site, jobs, row)
    raw = task(sent(site, row, START), "evaluate")
    answer = ended(site, jobs, row, raw)
    # with eight films every held-out one is among the first ten
    assert (answer["numbers"]["federated"]["users"], answer["numbers"]["federated"]["hr"]) == (6, 6.0)
    assert set(answer["numbers"]) == {"federated", "local", "popularity"}
    assert ended(site, jobs, row, raw) == answer
    assert train_code(site, jobs, row, kind="evaluate") == "permit.evaluate"
    assert train_code(site, jobs, row, kind="evaluate", number=1) == "permit.evaluate"
    assert train_code(site, jobs, row, kind="evaluate", protocol="p3") == "permit.protocol"
    assert ended(site, jobs, row, task(sent(site, row, START), "evaluate", protocol="p2"))["status"] == "done"
    assert train_code(site, jobs, row, kind="train", protocol="p3") == "permit.protocol"
    assert train_code(site, jobs, row, kind="train", number=1) == "permit.protocol"


def test_a_run_keeps_its_data_version_until_its_permit_ends(site, jail):
    row = approved(site, recipe("popularity"))
    file = site.folder / "data" / "ratings.csv"
    file.write_text(file.read_text() + "".join(f"canary-9,{item},3,{2000 + n}\n" for n, item in enumerate(ITEMS[:5])))
    take_in_folder(site.folder)
    again = reopened(site)
    jobs = Jobs(again, jail)
    assert again.store.version != site.store.version
    assert train(again, jobs, row)["passport"]["data_version"] == site.store.version
    newer = approved(again, recipe("popularity", name="newer"))
    assert train(again, jobs, newer)["passport"]["rows"] == 21
    jobs.close()
    again.close()


def test_a_limit_that_the_owner_lowers_holds_for_permits_given_before(site, jail):
    row = approved(site, own())
    config = site.folder / "site.toml"
    config.write_text(config.read_text().replace("own_code = true", "own_code = false"))
    again = reopened(site)
    assert refused(again, Jobs(again, jail), row, task(sent(again, row, VECTOR))) == "plan.own_code"
    again.close()


def test_a_passport_of_another_site_is_not_this_sites(site, jobs):
    passport = train(site, jobs, approved(site, recipe()))["passport"]
    assert signed_by(passport, site.keys.public)
    assert not signed_by(passport, "ab" * 32)
    assert not signed_by({**passport, "rows": 19}, site.keys.public)


def test_a_round_without_the_private_state_of_the_round_before_is_refused(site, jobs):
    """After an older backup: starting fresh in the middle would give another model without a word."""
    row = approved(site, own())
    train(site, jobs, row, VECTOR, number=0)
    (site.state / "private" / row.id / "r" / "0.safetensors").unlink()
    answer = ended(site, jobs, row, task(sent(site, row, {"v": np.ones(8, np.float32)}), number=1))
    assert (answer["status"], answer["code"]) == ("refused", "task.round")


def test_a_permit_for_another_consortium_ends_at_the_next_start(site, jail):
    row = approved(site, own())
    (site.folder.parent / "items.csv").write_text("item\n" + "".join(f"{item}\n" for item in reversed(ITEMS)))
    site.close()
    again = Site.open(site.folder)
    Jobs(again, jail).recover()
    found = again.ledger.request(row.id)
    assert (found.decision, found.signed_permit) == ("revoked", None)
    assert "catalogue" in found.reason
