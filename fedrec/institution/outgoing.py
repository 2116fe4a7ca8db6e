"""What may leave after a task, from what the jail wrote: the same for the site and for an auditor's replay."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.config.site import Limits
from fedrec.core.params import Array
from fedrec.core.split import split
from fedrec.errors import Refused
from fedrec.exchange.codec import pack_update, unpack_update
from fedrec.exchange.plan import PlanText
from fedrec.exchange.wire import decode, encode, sha256
from fedrec.institution.guard import Guard, check_counts, check_measures, check_outcomes, check_sums
from fedrec.institution.store import Store
from fedrec.models import OUTCOMES

Noise = Callable[[Mapping[str, Array]], Mapping[str, Array]]
MAX_MORE = 10**6  # bytes of an update file beyond the arrays


Protect = Callable[[Mapping[str, Array], int, int], Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class Update:
    """An update that passed the guard.

    Args:
        thin_items: rows that too few users stand behind and that are zero now; None where the site has no such limit.
        measures: qualities that the plan asks for beside the update, in ten-thousandths.
        rest: what the plan's codec could not send: private, for the next round; None without a codec.
    """

    data: bytes
    rows: int
    users: int
    thin_items: int | None
    measures: dict[str, int]
    rest: dict[str, Array] | None = None

    @property
    def sha256(self) -> str:
        return sha256(self.data)


def update_of(
    plan: PlanText,
    limits: Limits,
    store: Store,
    protocol: str,
    file: Path,
    body: Mapping[str, Any],
    base: Path,
    rest: Path,
    noise: Noise | None = None,
    protect: Protect | None = None,
) -> Update:
    """The update that a train task wrote into `file`, looked at for the last time.

    Args:
        body: what the jail reported.
        base: the model that the task started from.
        rest: what the round before could not send; no file in the first one, or without a codec.
        noise: of differential privacy. Rows are then not zeroed for being backed by few, which would tell that they
            are, and the numbers of rows and users do not leave.
        protect: makes of the arrays and their rows and users what may leave; rows and users then do not leave.

    Raises:
        Refused: `guard.`, `codec.` or `sum.` and what is wrong with it.
    """
    rows, users = check_counts(body, store.n_rows, store.n_users)
    most = limits.megabytes * 10**6
    if plan.packs:  # the site's limit is on what travels
        most = max(most, sum(tensor.nbytes(store.n_items) for tensor in plan.leaves.values()))
    if file.stat().st_size > most + MAX_MORE:  # before it is read into memory
        raise Refused("guard.bytes", f"the update is larger than {limits.megabytes:g} MB", "Make the model smaller")
    tensors, thin = decode(file.read_bytes()), None
    guard = Guard(plan.leaves, store.n_items, int(limits.megabytes * 10**6), limits.min_users_per_row)
    if limits.min_users_per_row > 1 and noise is None:
        tensors, thin = guard.cohort(tensors, split(store.rows(), protocol, plan.seed).train.matrix())
    if noise is not None:
        guard.check(tensors, 0)
        tensors, rows, users = dict(noise(tensors)), 0, 0
    left = decode(rest.read_bytes()) if plan.packs and rest.exists() else {}
    data, kept = packed(plan, guard, tensors, decode(base.read_bytes()) if plan.packs and plan.local else {}, left)
    if protect is not None:
        weights = (rows, users) if noise is None else (1, 1)
        data, rows, users = encode(protect(tensors, *weights)), 0, 0
        guard.check_bytes(len(data))
    return Update(data, rows, users, thin, check_measures(body.get("measures"), plan.measures, store.quality), kept)


def packed(
    plan: PlanText,
    guard: Guard,
    tensors: Mapping[str, Array],
    base: Mapping[str, Array],
    rest: Mapping[str, Array],
) -> tuple[bytes, dict[str, Array] | None]:
    """(bytes that may leave, what stays for the next round); with a codec the guard looks before and after it.

    Args:
        base: the model that parameters were trained from.
        rest: what the round before could not send.

    Raises:
        Refused: `guard.` or `codec.` and what is wrong with the arrays.
    """
    if plan.packs is None:
        data = encode(tensors)  # written anew: the bytes that the jail wrote could carry more than the arrays
        guard.check(tensors, len(data))
        return data, None
    guard.check(tensors, 0)
    start = base if plan.local else None
    sent, kept = pack_update(plan.packs, tensors, start, rest)
    data = encode(sent)
    guard.check(unpack_update(plan.packs, decode(data), start), len(data))  # what the centre will read
    return data, kept


def numbers_of(
    plan: PlanText, store: Store, body: Mapping[str, Any], scale: tuple[float, float] | None = None
) -> tuple[dict[str, Any], str]:
    """The sums that an evaluate task reported, and the SHA-256 of their JSON with sorted keys.

    Args:
        scale: lowest and highest rating, of a model that predicts ratings.

    Raises:
        Refused: `guard.` and what is wrong with them.
    """
    numbers: dict[str, Any]
    if plan.model["name"] in OUTCOMES:
        numbers = check_outcomes(body.get("numbers"), store.n_rows)
    else:
        numbers = check_sums(body.get("numbers"), store.n_users, (store.n_rows, scale[1] - scale[0]) if scale else None)
    return numbers, numbers_sha256(numbers)


def numbers_sha256(numbers: Mapping[str, Any]) -> str:
    """SHA-256 of an answer's sums; 64 hex digits."""
    return sha256(json.dumps(numbers, sort_keys=True, separators=(",", ":")).encode())
