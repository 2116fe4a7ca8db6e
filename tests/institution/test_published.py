"""The model that an institution serves: replaced in one step, read by known and unknown users."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
from small_site import VECTOR, approved, ended, events, own, recipe, sent, task, train

from fedrec import models
from fedrec.core.params import SharedParams
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.plan import PlanText, Tensor
from fedrec.exchange.wire import digest, encode
from fedrec.institution import audit
from fedrec.institution.commands import Commands
from fedrec.institution.incoming import Made, check_model
from fedrec.institution.permit import Task
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
    row, commands = approved(site, recipe("popularity", runs=3)), Commands(site, None, jobs, {})
    for run in ("a", "b"):
        train(site, jobs, row, run=run)
        ended(site, jobs, row, task(sent(site, row, COUNTS), "publish", run=run))
    assert commands._do({"op": "models.use", "version": "1"})["run"] == "a"
    assert commands._do({"op": "models.rollback"})["run"] == "b"
    with pytest.raises(WrongInput):
        commands._do({"op": "models.use", "version": "9"})
    assert events(site, "models.use") == ["intent", "done"]
    assert events(site, "models.rollback") == ["intent", "done"]
    (one,) = (e for e in audit.read(site.audit.path) if (e["act"], e["outcome"]) == ("models.rollback", "done"))
    permit = site.ledger.request(row.id).signed_permit["id"]
    assert one["detail"] == {"model": digest(COUNTS), "number": 2, "permit": permit}


# what is installed

NAN, MORE = np.full(8, np.nan, np.float32), {"more": np.zeros(3, np.float32)}
MODELS = {
    "a value that is not finite": ({"counts": NAN}, "guard.finite"),
    "an array more": (COUNTS | MORE, "guard.name"),
    "no array": ({"more": COUNTS["counts"]}, "guard.name"),
    "another length": ({"counts": np.zeros(9, np.float32)}, "guard.shape"),
    "another dtype": ({"counts": np.zeros(8)}, "guard.dtype"),
}


@pytest.mark.parametrize("what", MODELS)
@pytest.mark.parametrize("plan", [recipe("popularity"), own(publish=True)], ids=["recipe", "own code"])
def test_a_model_is_not_installed_that_has(what, plan, site, jobs):
    name = next(iter(plan.leaves))
    (tensors, code), start = MODELS[what], {name: COUNTS["counts"]}
    tensors = {name if key == "counts" else key: array for key, array in tensors.items()}
    row = approved(site, plan)
    train(site, jobs, row, start)
    answer = ended(site, jobs, row, task(sent(site, row, tensors), "publish"))
    assert (answer["status"], answer.get("code")) == ("refused", code)
    with pytest.raises(WrongInput, match="no model"):
        Published(site.state).current()


def test_bytes_beside_the_arrays_are_refused_and_the_arrays_alone_are_not():
    data = encode(COUNTS)
    size = int.from_bytes(data[:8], "little")
    head = {"__metadata__": {"note": "x" * 50}, **json.loads(data[8 : 8 + size])}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    check_model(recipe("popularity"), 8, data)
    with pytest.raises(Refused, match=r"guard\.bytes"):
        check_model(recipe("popularity"), 8, len(text).to_bytes(8, "little") + text + data[8 + size :])


@pytest.mark.parametrize("name", models.NAMES)
def test_what_a_recipe_begins_with_and_what_its_rounds_give_may_be_published(name):
    model = models.create(name, {})
    declared = {key: Tensor.parse(text) for key, text in model.leaves().items()}
    plan = PlanText("p", "P", {"name": name}, {"name": "sum"}, declared, rounds=model.rounds_default)
    shared = model.init(30, 0)
    check_model(plan, 30, encode(shared.tensors))
    step = SharedParams({key: np.full(tensor.sized(30), 0.5, tensor.dtype) for key, tensor in declared.items()})
    for _ in range(2 if model.rounds_default > 1 else 1):
        shared = model.finish(shared, step)
        check_model(plan, 30, encode(shared.tensors))


# Own code that writes the lists itself, says that it is done and leaves; {lists} and {popular} are numpy.
FORGED = """
import os, stat, fcntl
from safetensors.numpy import save
data = save({{"lists": {lists}, "popular": {popular}{more}}})
for fd in range(3, 64):
    try:
        kind = os.fstat(fd).st_mode
    except OSError:
        continue
    if stat.S_ISREG(kind) and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_RDWR:
        os.pwrite(fd, data, 0)
    if stat.S_ISSOCK(kind):
        os.write(fd, b'{{"rows": 0, "users": 0, "numbers": {{}}, "measures": {{}}}}')
os._exit(0)
"""
GOOD, POPULAR = "np.full((6, 8), 7, np.int32)", "np.arange(8, dtype=np.int32)"
LISTS = {
    "fewer users": ("np.full((5, 8), 7, np.int32)", POPULAR, "", "guard.shape"),
    "an item beyond the catalogue": ("np.full((6, 8), 8, np.int32)", POPULAR, "", "guard.numbers"),
    "an item below -1": ("np.full((6, 8), -2, np.int32)", POPULAR, "", "guard.numbers"),
    "numbers of another kind": ("np.full((6, 8), 0.5)", POPULAR, "", "guard.dtype"),
    "no popular item": (GOOD, "np.full(8, -1, np.int32)", "", "guard.numbers"),
    "few popular ones": (GOOD, "np.arange(3, dtype=np.int32)", "", "guard.shape"),
    "something more": (GOOD, POPULAR, ", 'rows': rows.item", "guard.name"),
    "a model of its own that is no such model": (
        GOOD,
        POPULAR,
        ", 'own.v': np.zeros(8), 'ndcg': np.zeros(2)",
        "guard.dtype",
    ),
    "a reason that is none": (GOOD, POPULAR, ", 'why': np.array([99])", "guard.numbers"),
    "a megabyte and more": (GOOD, POPULAR, ", 'rows': np.zeros(10**6)", "guard.bytes"),
    "nothing odd": (GOOD, POPULAR, "", None),
}


@pytest.mark.parametrize("what", LISTS)
def test_lists_that_own_code_writes_itself_with(what, site, jobs):
    lists, popular, more, code = LISTS[what]
    score = FORGED.format(lists=lists, popular=popular, more=more)
    row = approved(site, own(score=score, publish=True))
    train(site, jobs, row, VECTOR)
    answer = ended(site, jobs, row, task(sent(site, row, VECTOR), "publish"))
    assert answer.get("code") == code, answer
    assert len(Published(site.state).versions()) == (code is None)


def test_control_unchecked_lists_fail_in_the_face_of_the_user(site, tmp_path):
    row, base, lists = approved(site, own(publish=True)), tmp_path / "base", tmp_path / "lists"
    base.write_bytes(encode(VECTOR))
    lists.write_bytes(encode({"lists": np.full((5, 8), 8, np.int32), "popular": np.arange(8, dtype=np.int32)}))
    made = Made(lists.read_bytes())
    Published(site.state).install(row, Task.parse(task(digest(VECTOR), "publish")), base, made, site.store)
    for user in ("canary-0", "canary-5"):
        with pytest.raises(IndexError):
            Recommender(site.folder).for_user(user, 3)
