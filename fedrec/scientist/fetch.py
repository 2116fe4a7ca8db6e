"""Fetching what a site released, and distrusting it: passport, then SHA-256; the round loop looks at the arrays."""

from __future__ import annotations

from collections import Counter
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
    name: str,
    key: str,
    request: str,
    task: RoundTask,
    message: Mapping[str, Any],
    answer: Mapping[str, Any],
    shared_key: str,
) -> dict[str, Any]:
    """The passport of a site's update, once it is found to be for this task.

    Args:
        key: the site's as pinned; hex.
        shared_key: the id of the key of encrypted sums that the site's permit names; "" for other plans.

    Raises:
        Refused: `update.` and the first field that is not what was asked for.
    """
    facts: dict[str, Any] = answer["passport"]
    passport.check(
        facts, key=key, site=name, request=request, plan=task.plan.fingerprint, members=list(task.members),
        shared_key=shared_key, **{key: message[key] for key in ("run", "round", "kind", "protocol", "base", "nonce")},
    )  # fmt: skip
    return facts


def shared_key_of(row: Mapping[str, Any]) -> str:
    """What the permit of a request, as a site lists it, names its shared key; "" for none."""
    return str((row.get("permit") or {}).get("shared_key", ""))


def check_shared(keys: Mapping[str, str]) -> None:
    """Accept a round of encrypted sums only where all institutions have the same key.

    Args:
        keys: what each names its shared key, by site; "" for none.

    Raises:
        Refused: `ckks.differ` with the names of those that differ from the most.
    """
    most = Counter(keys.values()).most_common(1)[0][0] if keys else ""
    others = [site for site, key in keys.items() if key != most or not key]
    if others:
        reason = f"{', '.join(others)} approved the plan with another shared key than the most, or with none"
        raise Refused("ckks.differ", reason, "Compare fedrec site keys, take the newest key, and approve again there")


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


def asked_about(site: SyftSite, answer: Answer, what: str, data: bytes) -> tuple[Answer, bytes]:
    """What an institution says about its masked or encrypted update, and its answer with the bytes that this took.

    Args:
        what: "sum", to have `data`, all members' encrypted updates added, decrypted; "unmask", see recovered.py.

    Raises:
        SiteRefused: the site was lost, or what it says.
    """
    before, request, name = site.line.counted, str(answer.receipt["request"]), sha256(data)
    try:
        site.put(request, name, data)
        said = site.own("GET", f"/fedrec/v1/blobs/{answer.receipt['sha256']}?{what}={name}", request=request)
    except Refused as refusal:
        raise SiteRefused(answer.site, refusal) from None
    sent, received = site.line.counted
    up, down = answer.bytes_up + received - before[1], answer.bytes_down + sent - before[0]
    return replace(answer, bytes_up=up, bytes_down=down), said


def _blob(site: SyftSite, request: str, facts: Mapping[str, Any]) -> bytes:
    data = site.own("GET", f"/fedrec/v1/blobs/{facts['sha256']}", request=request)
    if sha256(data) != facts["sha256"]:
        raise Refused("update.sha256", "the update is not the one its passport names", "Resume the run")
    return data
