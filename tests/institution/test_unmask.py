"""Ending a doubly masked sum at one site: it signs one set of members for ever, and tells only what that set needs."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json

import numpy as np
import pytest
from small_site import SCIENTIST, approved, recipe, submitted
from test_review import shown
from test_sums import NAMES, OTHERS, four, summed

from fedrec.errors import Refused
from fedrec.exchange.plan import PlanText, Tensor
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.recovery import agreement, locked, rows_of, told, unlocked
from fedrec.exchange.secure_sum import add, from_ring
from fedrec.exchange.wire import decode, sha256
from fedrec.institution import audit, policy
from fedrec.institution.diff import changes
from fedrec.institution.evidence.replay import replay
from fedrec.institution.review import text_of
from fedrec.institution.site import Site
from fedrec.institution.sums import context_of
from fedrec.institution.unmask import unmask

LEFT = list(NAMES[:3])  # d is lost


def recovering(**asks):
    leaves = {"gram": Tensor("float32", ("items", "items"), fixed=(0, 32))}
    return dataclasses.replace(recipe(**asks), leaves=leaves, privacy={"sum": "secure", "recover": True})


class Round:
    """A round of four, with a's real update, and b's and c's made here."""

    def __init__(self, site, jail, **asks):
        self.site, self.row = site, approved(site, recovering(**asks))
        self.answer = summed(site, jail, NAMES, self.row)
        self.update = self.answer["passport"]["sha256"]
        job = site.ledger.job(self.answer["key"])
        self.context = context_of(self.row.plan, job.task)
        self.keys = {"a": site.keys.public} | {name: key.verify_key.encode().hex() for name, key in OTHERS.items()}
        rings = {"a": decode(site.blobs.path("out", self.row.id, self.update).read_bytes())}
        self.truth = np.random.default_rng(1).integers(0, 9, (8, 8)).astype(np.uint32)
        for name, key in OTHERS.items():
            rings[name] = locked({"gram": self.truth}, name, key, self.keys, self.context)
        self.rings = {name: rows_of(ring, 4) for name, ring in rings.items()}

    def ask(self, said):
        """What the site answers to this wish."""
        data = said if isinstance(said, bytes) else json.dumps(said).encode()

        async def parts():
            yield data

        asyncio.run(self.site.blobs.receive(self.row.id, sha256(data), parts(), 10**6))
        name = unmask(self.site, SCIENTIST, self.row.id, self.update, sha256(data))
        return json.loads(self.site.blobs.path("out", self.row.id, name).read_bytes())

    def signatures(self, among):
        return {name: agreement(among, self.context, OTHERS[name]) for name in among if name != "a"}

    def wish(self, among=LEFT, **changes):
        own = agreement(among, self.context, self.site.keys.site)
        rows = {name: base64.b64encode(self.rings[name][1][0]).decode() for name in among}
        return {"among": among, "signatures": self.signatures(among) | {"a": own}, "rows": rows, **changes}

    def code(self, said):
        with pytest.raises(Refused) as refused:
            self.ask(said)
        return refused.value.code


@pytest.fixture
def one(tmp_path):
    made = four(tmp_path)
    yield made
    made.close()


def test_a_site_signs_then_tells_and_the_sum_over_who_is_left_is_right(one, jail):
    now = Round(one, jail)
    signed = now.ask({"among": LEFT})
    assert signed == {"among": LEFT, "signature": agreement(LEFT, now.context, one.keys.site)}
    said = {"a": now.ask(now.wish())["told"]}
    assert {name: set(parts) for name, parts in said["a"].items()} == {name: {name, "d"} for name in LEFT}
    for at, name in ((1, "b"), (2, "c")):
        rows = {maker: now.rings[maker][1][at] for maker in LEFT}
        said[name] = told(rows, OTHERS[name], now.keys, now.context)
    plan = PlanText.parse(now.row.plan)
    total = unlocked(add(plan, [now.rings[name][0] for name in LEFT], 8), NAMES, LEFT, said)
    own = decode(one.blobs.path("out", now.row.id, now.update).read_bytes())["gram"]
    alone = from_ring(plan, {"gram": total["gram"] - 2 * now.truth}, 3)["gram"]
    assert alone.trace() == 18  # six users with five films each, of which two are held out
    assert (own != alone).any()
    acts = [event for event in audit.read(one.audit.path, "unmask") if event["outcome"] == "done"]
    assert [event["detail"]["step"] for event in acts] == ["sign", "tell"]
    assert {event["detail"]["among"] for event in acts} == {"a b c"}
    assert {event["object"] for event in acts} == {now.update}


def test_another_set_is_neither_signed_nor_told_also_after_a_restart(tmp_path, jail):
    """With two sets the centre would have the masks of a's pairs with c and with d, and in the end all of them."""
    now, other = Round(four(tmp_path), jail), ["a", "b", "d"]
    now.ask({"among": LEFT})
    now.site.close()
    now.site = Site.open(tmp_path / "a")
    assert now.ask({"among": []}) == {"among": LEFT}
    assert now.ask({"among": other})["among"] == LEFT
    assert now.code(now.wish(other)) == "sum.unmask"  # though b and d, and the site's stolen key, have signed it
    assert now.ask(now.wish())["told"].keys() == set(LEFT)  # the control
    now.site.close()


def test_nothing_is_told_before_enough_have_signed_the_same_set(one, jail):
    now = Round(one, jail)
    good = now.wish()["signatures"]
    other = agreement(list(NAMES), now.context, OTHERS["b"])
    for bad in ({}, {"a": good["a"]}, good | {"b": other}, dict.fromkeys(LEFT, good["a"])):
        assert now.code(now.wish(signatures=bad)) == "sum.unmask"
    assert now.code(now.wish(rows=now.wish()["rows"] | {"b": now.wish()["rows"]["c"]})) == "sum.unmask"
    rows = now.wish()["rows"]
    assert now.code(now.wish(rows={name: rows[name] for name in "ab"})) == "sum.unmask"  # c would pass for lost too
    assert now.ask(now.wish())["told"].keys() == set(LEFT)  # the control


WISHES = [
    b"", b"[]", b"{}", b"\xff", b'{"among": "abc"}', b'{"among": [1, 2, 3]}', b'{"among": ["a", "b", "c"], "rows": {}}',
    b'{"among": ["a", "b", "c"], "rows": [], "signatures": {}}', b'{"among": {"a": "b"}}', b"[" * 100_000,
    b'{"among": ["a", "b", "c"], "rows": {"a": 1}, "signatures": {}}', b'{"among": ["b", "c", "d"]}',
    b'{"among": ["a", "b"]}', b'{"among": ["a", "b", "x"]}', b'{"among": ["c", "b", "a"]}',
    b'{"among": ["a", "a", "b", "c"]}', b'{"among": ["a", "b", "c"], "rows": {"a": "?"}, "signatures": {}}',
]  # fmt: skip


@pytest.mark.parametrize("said", WISHES)
def test_what_is_no_wish_is_refused(said, one, jail):
    now = Round(one, jail)
    assert now.code(said) == "sum.unmask"
    assert now.ask({"among": []}) == {"among": []}  # and nothing was agreed to by it


def test_a_plan_that_does_not_recover_tells_nothing(one, jail):
    now = Round(one, jail)
    leaves = {"gram": Tensor("float32", ("items", "items"), fixed=(0, 32))}
    now.row = approved(one, dataclasses.replace(recipe(name="other"), leaves=leaves, privacy={"sum": "secure"}))
    now.update = summed(one, jail, NAMES, now.row)["passport"]["sha256"]
    assert now.code({"among": LEFT}) == "sum.unmask"


@pytest.mark.parametrize("apart", [2, 1])
def test_a_sum_over_nearly_the_members_of_one_that_left_is_not_agreed_to(apart, tmp_path, jail):
    """The difference would be d's part; the control is a site that does not mind."""
    site = four(tmp_path, f"members_apart = {apart}\n")
    first, second = Round(site, jail), Round(site, jail, name="again")
    first.ask({"among": list(NAMES)})
    if apart == 2:
        assert second.code({"among": LEFT}) == "sum.members"
        assert second.ask({"among": list(NAMES)})["among"] == list(NAMES)
    else:
        assert second.ask({"among": LEFT})["among"] == LEFT
    site.close()


def test_what_was_agreed_to_counts_not_who_was_asked(one, jail):
    """A sum over three of four that was agreed to: a later one over all four would tell the fourth's part."""
    now = Round(one, jail)
    now.ask({"among": LEFT})
    assert summed(one, jail, NAMES, approved(one, recovering(name="later")))["code"] == "sum.members"


def test_a_round_that_was_done_again_with_others_is_not_agreed_to(tmp_path, jail):
    site = four(tmp_path, "members_apart = 2\n")
    now = Round(site, jail)
    row = approved(site, dataclasses.replace(recovering(name="three"), privacy={"sum": "secure"}))
    assert summed(site, jail, NAMES[:3], row)["status"] == "done"
    assert now.code({"among": LEFT}) == "sum.void"
    site.close()


def test_a_round_of_three_can_be_taken_part_in_and_two_of_them_are_too_few(one, jail):
    """As when the fourth is still at work in an earlier round."""
    now = Round(one, jail)
    now.row = approved(one, recovering(name="three"))
    now.update = summed(one, jail, LEFT, now.row)["passport"]["sha256"]
    assert now.code({"among": LEFT[:2]}) == "sum.unmask"
    assert now.ask({"among": LEFT})["among"] == LEFT


def test_the_owner_reads_what_it_means_and_that_it_is_new(one):
    secret = dataclasses.replace(recovering(), privacy={"sum": "secure"})
    words = "could open the others' updates"
    assert words in text_of(shown(one, submitted(one, recovering())))
    assert words not in text_of(shown(one, submitted(one, secret)))
    assert any("recover" in line for line in changes(secret, recovering()))


def test_a_doubly_masked_round_is_replayed(one, jail):
    detail = {"data_version": one.store.version, **policy.keep(one)}
    one.audit.event("site", "site", "start", "a", outcome="done", detail=detail)
    now = Round(one, jail)
    (again,) = replay(one.folder, "r", jail)
    assert (again.same, again.recorded) == (True, now.update)


def test_a_plan_says_recover_only_where_it_can_be():
    assert Privacy("secure", recover=True).table() == {"sum": "secure", "recover": True}
    assert Privacy.from_table({"sum": "secure", "recover": True}).recover
    for wrong in ({"sum": "plain"}, {"sum": "ckks"}, {"sum": "secure", "epsilon": 4.0}):
        with pytest.raises(ValueError, match=r"privacy\.recover"):
            Privacy(**wrong, recover=True)
    with pytest.raises(ValueError, match="say nothing"):
        Privacy.from_table({"sum": "secure", "recover": False})
