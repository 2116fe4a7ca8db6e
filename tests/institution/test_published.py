"""The model that an institution serves: replaced in one step, read by known and unknown users."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from small_site import approved, ended, events, recipe, sent, task, train

from fedrec.errors import WrongInput
from fedrec.exchange.wire import digest
from fedrec.institution import audit
from fedrec.institution.commands import Commands
from fedrec.institution.published import KEPT, Published
from fedrec.institution.recommending import Recommender


def best(site, user, k):
    """(items, whether the user is known)."""
    found = Recommender(site.folder).for_user(user, k)
    return found.items, found.known


COUNTS = {"counts": np.arange(1, 9, dtype=np.float32)}  # film-7 is the best


def test_a_published_model_serves_known_and_unknown_users(site, jobs):
    row = approved(site, recipe("popularity"))
    published = Published(site.state)
    with pytest.raises(WrongInput, match="no model"):
        best(site, "canary-0", 3)
    train(site, jobs, row)
    answer = ended(site, jobs, row, task(sent(site, row, COUNTS), "publish"))
    assert answer == {"status": "done", "numbers": {}, "key": answer["key"]}
    assert best(site, "canary-0", 3) == (["film-7", "film-6", "film-5"], True)  # has seen 0 to 4
    assert best(site, "canary-0", 8) == (["film-7", "film-6", "film-5"], True)
    assert best(site, "canary-3", 3) == (["film-2", "film-1", "film-0"], True)  # has seen 3 to 7
    assert best(site, "nobody", 2) == (["film-7", "film-6"], False)
    assert published.current()["model"] == digest(COUNTS)
    assert [model["users"] for model in published.versions()] == [6]
    for wrong in (0, 9, -1):
        with pytest.raises(WrongInput, match="from 1 to 8"):
            best(site, "canary-0", wrong)


def test_a_reader_never_finds_a_model_half_replaced_even_when_the_same_one_comes_again(site, jobs):
    row = approved(site, recipe("popularity", runs=30, train=("p1",)))
    stop, found = threading.Event(), []

    def publish(run):
        train(site, jobs, row, run=run)
        return ended(site, jobs, row, task(sent(site, row, COUNTS), "publish", run=run))["status"]

    assert publish("first") == "done"

    def read():
        while not stop.is_set():
            try:
                found.append(best(site, "nobody", 1)[0])
            except Exception as error:
                found.append(repr(error))
            time.sleep(0.0002)

    thread = threading.Thread(target=read)
    thread.start()
    assert [publish(f"run-{number}") for number in range(4)] == ["done"] * 4
    stop.set()
    thread.join()
    assert {str(value) for value in found} == {"['film-7']"}
    assert len(list((site.state / "models").glob("*/lists.safetensors"))) == KEPT


def test_versions_use_and_rollback(site, jobs):
    row, published = approved(site, recipe("popularity", runs=30)), Published(site.state)
    permit = site.ledger.request(row.id).signed_permit["id"]
    for wrong in (published.rollback, lambda: published.use("1")):
        with pytest.raises(WrongInput):
            wrong()
    for number in range(1, KEPT + 3):
        train(site, jobs, row, run=f"r{number}")
        sent_model = sent(site, row, {"counts": COUNTS["counts"] * number})
        assert ended(site, jobs, row, task(sent_model, "publish", run=f"r{number}"))["status"] == "done"
    kept = published.versions()
    assert [one["number"] for one in kept] == [3, 4, 5, 6, 7]
    assert [one["number"] for one in kept if one["served"]] == [7]
    assert {(one["scientist"], one["permit"], one["request"]) for one in kept} == {(row.scientist, permit, row.id)}
    assert published.use("4")["run"] == "r4"
    assert published.current()["run"] == "r4"
    assert published.rollback()["number"] == 7
    assert published.rollback()["number"] == 6
    assert published.rollback()["number"] == 5
    assert published.use(kept[0]["folder"][:12])["number"] == 3
    for wrong in ("2", "99", "", ".", "../../x", kept[0]["folder"][:3]):
        with pytest.raises(WrongInput, match="models list"):
            published.use(wrong)
    assert published.current()["run"] == "r3"
    assert best(site, "nobody", 1) == (["film-7"], False)


def test_the_owner_chooses_through_the_control_socket_and_the_log_says_so(site, jobs):
    row, commands = approved(site, recipe("popularity", runs=3)), Commands(site, None, {})
    for run in ("a", "b"):
        train(site, jobs, row, run=run)
        ended(site, jobs, row, task(sent(site, row, COUNTS), "publish", run=run))
    assert commands._do({"op": "models.use", "version": "1"})["run"] == "a"
    assert commands._do({"op": "models.rollback"})["run"] == "b"
    with pytest.raises(WrongInput):
        commands._do({"op": "models.use", "version": "9"})
    assert events(site, "models.use") == ["intent", "done", "intent", "error WrongInput"]
    assert events(site, "models.rollback") == ["intent", "done"]
    (one,) = (e for e in audit.read(site.audit.path) if (e["act"], e["outcome"]) == ("models.rollback", "done"))
    permit = site.ledger.request(row.id).signed_permit["id"]
    assert one["detail"] == {"model": digest(COUNTS), "number": 2, "permit": permit}
