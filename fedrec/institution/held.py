"""The leak gate: an update that tells too much waits inside for a person, whatever the permit says.

DIR/state/held/<fingerprint>.<data version>.json   what the attack found, and what was decided

It is tried once for a plan and a version of the data, so that asking again tells nothing more. With an epsilon nothing
is tried: no attack on all that the plan releases is right more often than its noise allows, and that is known without
a row.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scipy.special import ndtr

from fedrec.errors import Refused
from fedrec.exchange.accountant import sigma_of
from fedrec.exchange.budget import cost_of_plan
from fedrec.exchange.plan import PlanText
from fedrec.institution.ledger import RequestRow
from fedrec.institution.site import Site
from fedrec.institution.store import Store
from fedrec.institution.told import LOOKED_AT, told

SECONDS = 20.0  # for an attack, once for a plan and a version of the data
_lock = threading.Lock()  # what one job finds, the other reads


def check_held(site: Site, plan: PlanText, row: RequestRow, permit: Mapping[str, Any], store: Store) -> None:
    """Hold an update that tells more than the site's `leak_gate` allows, until its owner lets it go.

    What cannot be tried (own code, gradients, models that read features) counts as telling all. Of a plan with several
    protocols the rows of the first are tried.

    Raises:
        Refused: `release.held`.
    """
    gate = site.config.limits.leak_gate
    path = _place(site.state, row.fingerprint, store.version)
    if gate is None and not path.exists():
        return
    with _lock:
        found = before = _read(path)
        if plan.protects.epsilon is not None:
            right: int | None = _most(cost_of_plan(plan, permit["epsilon"]))
        else:
            right = before["right"] if "right" in before else _tried(plan, store)
        if "right" in before and before["right"] != right:  # approved anew with another epsilon: decided anew
            found = {}
        found = {**found, "right": right, "held": gate is not None and (right is None or right > gate)}
        if found != before:
            _write(path, found)
    if found["held"] and "by" not in found:
        reason = "this update tells more about single users than this institution lets go by itself: its owner decides"
        raise Refused(
            "release.held", reason, "Wait for the owner, or submit with a smaller epsilon; the run can be resumed"
        )


def waiting(state: Path, row: RequestRow) -> str:
    """What the owner reads of a request whose update waits for him; empty where none does."""
    found = _read(_of(state, row))
    if not found.get("held") or "by" in found:
        return ""
    right = found["right"]
    tries = "could not be tried" if right is None else f"is right in {right} of 100 tries"
    return f"its update waits for you: an attack on it {tries}; release lets it go, revoke refuses it"


def let_go(site: Site, row: RequestRow, by: str) -> dict[str, str | int]:
    """Let a held update of the permit's data go, and every later one of this plan and version.

    Returns:
        What the log says of it.

    Raises:
        Refused: `release.none`.
    """
    with _lock:
        path = _of(site.state, row)
        found = _read(path)
        if not found.get("held") or "by" in found:
            raise Refused("release.none", "nothing of this request is held", "See fedrec requests list")
        _write(path, {**found, "by": by, "at": site.now()})
    right = found["right"]
    return {"data_version": path.suffixes[0][1:], "right": "not tried" if right is None else int(right)}


def gone(state: Path, row: RequestRow) -> bool:
    """Whether a person let the update of a request go."""
    return "by" in _read(_of(state, row))


def _tried(plan: PlanText, store: Store) -> int | None:
    """In how many of 100 tries the attack is right, rounded up; None where it cannot be tried."""
    if store.n_rows > LOOKED_AT:
        return None
    try:
        found = told(plan, store.rows(), seconds=SECONDS)
    except Exception:  # among others: no torch in the site's process
        return None
    return None if found is None or found.empty else math.ceil(100 * found.right / found.tries)


def _most(cost: int) -> int:
    """As `_tried`, of the best attacker in the long run, who is asked as often with as without the person.

    Source: Dong, Roth and Su 2022, Gaussian differential privacy, JRSS-B 84(1), section 2: with all releases he tells
    two normal distributions apart whose means are `mu` deviations from each other, so he is right with Phi(mu / 2).
    """
    return math.ceil(100 * float(ndtr(1 / (2 * sigma_of(cost)))))


def _of(state: Path, row: RequestRow) -> Path:
    """The place of a request with its permit's data; of one without a permit there is nothing."""
    return _place(state, row.fingerprint, str((row.signed_permit or {}).get("data_version", "")))


def _place(state: Path, fingerprint: str, version: str) -> Path:
    return state / "held" / f"{fingerprint}.{version}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


def _write(path: Path, found: Mapping[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        json.dump(found, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
