"""Fetching what a site released, and distrusting it: passport, then SHA-256; the round loop looks at the arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fedrec.aggregation import SiteUpdate
from fedrec.core.params import Array, SharedParams
from fedrec.errors import Refused
from fedrec.exchange import passport
from fedrec.exchange.codec import unpack_update
from fedrec.exchange.wire import decode, sha256
from fedrec.scientist.federation import Answer, RoundTask, SiteRefused

if TYPE_CHECKING:
    from fedrec.scientist.syft_client import SyftSite


def passport_of(
    name: str, key: str, request: str, task: RoundTask, message: Mapping[str, Any], answer: Mapping[str, Any]
) -> dict[str, Any]:
    """The passport of a site's update, once it is found to be for this task.

    Args:
        key: the site's as pinned; hex.

    Raises:
        Refused: `update.` and the first field that is not what was asked for.
    """
    facts: dict[str, Any] = answer["passport"]
    passport.check(
        facts, key=key, site=name, request=request, plan=task.plan.fingerprint, members=list(task.members),
        **{key: message[key] for key in ("run", "round", "kind", "protocol", "base", "nonce")},
    )  # fmt: skip
    return facts


def fetched(site: SyftSite, name: str, request: str, task: RoundTask, facts: Mapping[str, Any]) -> SiteUpdate:
    """The update that a passport names. Raises: Refused `update.sha256`, or what the site says."""
    data = _blob(site, request, facts)
    measures = {key: value / 10_000 for key, value in dict(facts["measures"]).items()}
    tensors, spec = decode(data), task.plan.spec
    if spec.packs is not None:
        tensors = unpack_update(spec.packs, tensors, task.shared.tensors if spec.local else None)
    if spec.protects.epsilon is not None:  # no number of rows or users has left
        return SiteUpdate(name, 1.0, SharedParams(tensors), 1)
    return SiteUpdate(name, float(facts["rows"]), SharedParams(tensors), int(facts["users"]), measures)


def fetched_ring(site: SyftSite, answer: Answer) -> tuple[Answer, dict[str, Array]]:
    """The masked update of an answer, and the answer with the bytes that this took.

    Raises:
        SiteRefused: the site was lost, or what it says.
    """
    before = site.line.counted
    try:
        ring = decode(_blob(site, str(answer.receipt["request"]), answer.receipt))
    except Refused as refusal:
        raise SiteRefused(answer.site, refusal) from None
    sent, received = site.line.counted
    up, down = answer.bytes_up + received - before[1], answer.bytes_down + sent - before[0]
    return replace(answer, bytes_up=up, bytes_down=down), ring


def opened_sum(site: SyftSite, answer: Answer, data: bytes) -> tuple[Answer, dict[str, Array]]:
    """The sum that one institution decrypts, and its answer with the bytes that this took.

    Args:
        data: all members' encrypted updates, added.

    Raises:
        SiteRefused: the site was lost, or what it says.
    """
    before, request, name = site.line.counted, str(answer.receipt["request"]), sha256(data)
    try:
        site.put(request, name, data)
        target = f"/fedrec/v1/blobs/{answer.receipt['sha256']}?sum={name}"
        ring = decode(site.own("GET", target, request=request))
    except Refused as refusal:
        raise SiteRefused(answer.site, refusal) from None
    sent, received = site.line.counted
    up, down = answer.bytes_up + received - before[1], answer.bytes_down + sent - before[0]
    return replace(answer, bytes_up=up, bytes_down=down), ring


def _blob(site: SyftSite, request: str, facts: Mapping[str, Any]) -> bytes:
    data = site.own("GET", f"/fedrec/v1/blobs/{facts['sha256']}", request=request)
    if sha256(data) != facts["sha256"]:
        raise Refused("update.sha256", "the update is not the one its passport names", "Resume the run")
    return data
