"""Doing a run's rounds again, from the log: same text, data version, base, seed and jail, so the same SHA-256.

Rounds follow one another, because a round starts from the private parameters that the one before left; those are
made again, not read. What is kept for it is only the model that each round started from (`task_files.keep_base`).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

import fedrec
from fedrec.config import ConsortiumConfig, Limits, SiteConfig
from fedrec.core.threads import one_thread
from fedrec.errors import DataError, Refused
from fedrec.exchange.plan import PlanText, fingerprint
from fedrec.exchange.wire import encode, sha256
from fedrec.institution import policy
from fedrec.institution.evidence.find import Event, Wanted, events_of
from fedrec.institution.evidence.reconcile import database
from fedrec.institution.outgoing import Protect, numbers_of, update_of
from fedrec.institution.permit import Task, stricter
from fedrec.institution.store import Store
from fedrec.institution.sums import protection
from fedrec.institution.task_files import Runner, base_kept, bounds_of, open_features, rest_of, scale_of
from fedrec.models import from_plan

TASK = ("kind", "run", "round", "protocol", "base", "nonce", "members")


@dataclass(frozen=True, slots=True)
class Replayed:
    """One task done again.

    Args:
        seq: number of the event that is compared.
        recorded, replayed: SHA-256 of what left then, and of what would leave now.
    """

    seq: int
    kind: str
    run: str
    round: int
    protocol: str
    recorded: str
    replayed: str

    @property
    def same(self) -> bool:
        return self.recorded == self.replayed

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "same": self.same}


def replay(folder: Path, run: str, jail: Runner, number: int | None = None) -> Iterator[Replayed]:
    """Every train and evaluate task of a run that ended well, in the order of the log.

    Args:
        number: yield this round only; the rounds before it are still done.

    Raises:
        Refused: `replay.` run, plan, version, data, policy, keys or base, when something of then is gone; or noise,
            which nobody can draw again.
    """
    done = [
        event for event in events_of(folder, Wanted(run=run, outcome="done")) if event["act"] in ("train", "evaluate")
    ]
    if number is not None:
        done = [event for event in done if event["round"] <= number]
    if not done or number not in (None, *(event["round"] for event in done)):
        raise Refused("replay.run", "the log has no such round that ended well", "See fedrec audit log --run")
    policies = _policies(folder)
    state = folder / "state"
    with tempfile.TemporaryDirectory(dir=state if os.access(state, os.W_OK) else None, prefix=".replay-") as place:
        for event in done:
            again = _Again(folder, event, policies, Path(place)).perform(jail)
            if number in (None, event["round"]):
                yield again


def _policies(folder: Path) -> list[tuple[int, str]]:
    """(event's number, policy) of every start."""
    starts = events_of(folder, Wanted(act="start"))
    return [(event["seq"], str(event["detail"].get("policy", ""))) for event in starts]


class _Again:
    """One task of the log, ready to be done again; private parameters of a round lie in `place`/<request>-<round>."""

    def __init__(self, folder: Path, event: Event, policies: list[tuple[int, str]], place: Path) -> None:
        self._event, self._state, self._place = event, folder / "state", place
        self._plan_text, self._permit = self._approved()
        self._plan = PlanText.parse(self._plan_text)
        if self._plan.fedrec != fedrec.__version__:
            raise Refused(
                "replay.version",
                f"the round ran on fedrec {self._plan.fedrec}",
                "Replay it with that version installed",
            )
        if self._plan.protects.epsilon is not None:
            reason = "what the round released has noise that nobody can draw again"
            raise Refused("replay.noise", reason, "Read the plan, and what the log says of the round")
        at_that_time = [name for seq, name in policies if seq < event["seq"]]
        allowed = policy.limits_of(policy.kept(self._state, at_that_time[-1] if at_that_time else ""))
        self._limits: Limits = stricter(self._permit, allowed)
        try:
            self._store = Store.open(self._state, str(event["detail"].get("data_version", "")))
        except DataError:
            raise Refused(
                "replay.data", "the data version of that round is gone", "Replay from a backup of the store"
            ) from None

    def _approved(self) -> tuple[str, dict[str, Any]]:
        """The plan's text and its permit."""
        with closing(database(self._state / "ledger.sqlite")) as db:
            found = db.execute("SELECT plan, permit FROM requests WHERE id=?", (self._event["request"],)).fetchone()
        if found is None or fingerprint(found[0]) != self._event["object"]:
            raise Refused("replay.plan", "the ledger has not the text that was approved", "Replay from a backup")
        return str(found[0]), json.loads(found[1])

    def perform(self, jail: Runner) -> Replayed:
        event, detail = self._event, self._event["detail"]
        kind, protocol, number = event["act"], detail["protocol"], event["round"]
        update, after = self._place / "update", self._place / "state"
        trained = [int(path.stem.rpartition("-")[2]) for path in self._place.glob(f"{self._event['request']}-*.state")]
        last = max((earlier for earlier in trained if earlier < number), default=number - 1)
        before = self._private(last if kind == "train" else number)
        if number and not before.exists() and not (kind == "train" and self._plan.schedule):
            raise Refused(
                "replay.base", f"the log has no round {number - 1} to start round {number} from", "Replay a whole run"
            )
        scale = scale_of(self._state.parent, self._plan)
        spec = {"plan": self._plan_text, "kind": kind, "protocol": protocol, "scale": scale}
        bounds = bounds_of(self._limits, self._store.n_users)
        base = self._base(str(detail["base"]))
        with ExitStack() as stack:
            files = {
                "rows": _open(stack, self._store.rows_path, os.O_RDONLY),
                "base": _open(stack, base, os.O_RDONLY),
                "update": _open(stack, update, os.O_RDWR | os.O_CREAT | os.O_TRUNC),
                "state": _open(stack, after, os.O_RDWR | os.O_CREAT | os.O_TRUNC),
                "log": _open(stack, self._place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
            }
            files |= open_features(stack, self._plan, self._store)
            if before.exists():
                files["private"] = _open(stack, before, os.O_RDONLY)
            report = jail.run(f"replay-{event['seq']}", spec, files, bounds)
        if kind == "train":
            rest = rest_of(before)
            given = (self._plan, self._limits, self._store, protocol, update, report.body, base, rest)
            left = update_of(*given, None, self._protection() if detail.get("members") else None)
            if left.rest is not None:
                rest_of(self._private(number)).write_bytes(encode(left.rest))
            after.replace(self._private(number))
            said = left.sha256
        else:
            said = numbers_of(self._plan, self._store, report.body, scale)[1]
        return Replayed(event["seq"], kind, event["run"], number, protocol, str(detail["sha256"]), said)

    def _protection(self) -> Protect | None:
        """The masks of a secure sum, with the site's own key."""
        if self._plan.protects.sum == "ckks":
            raise Refused("replay.keys", "an encrypted update has other bytes each time", "Replay it as a secure sum")
        folder, key = self._state.parent, self._state / "keys" / "site.key"
        if not key.is_file():
            raise Refused("replay.keys", "masked updates can only be made again with the site's key", "Replay there")
        with closing(database(self._state / "ledger.sqlite")) as db:
            sql = f"SELECT {', '.join(TASK)} FROM jobs WHERE key=?"
            found = db.execute(sql, (self._event["detail"]["job"],)).fetchone()
        task = Task.parse(dict(zip(TASK, (*found[:-1], json.loads(found[-1])), strict=True)))
        config = SiteConfig.load(folder / "site.toml")
        consortium = ConsortiumConfig.load(config.consortium_path)
        approved_again = self._event["permit"] != self._permit["id"] and any(m.former for m in consortium.member)
        if self._permit["consortium"] != consortium.hash or approved_again:
            reason = "the consortium's keys or catalogue changed since then, and the masks were of its keys"
            raise Refused("replay.keys", reason, "Replay from a backup of that time")
        pinned = {member.name: member.key for member in consortium.member}
        signing = SigningKey(bytes.fromhex(key.read_text().strip()))
        own = (config.name, signing, pinned, self._store.n_items, self._plan, self._plan_text)
        return protection(*own, task)

    def _private(self, number: int) -> Path:
        return self._place / f"{self._event['request']}-{number}.state"

    def _base(self, name: str) -> Path:
        """The model that the task started from: kept, or still to be evaluated, or the plan's own start."""
        request = self._event["request"]
        for path in (base_kept(self._state, request, name), self._state / "blobs" / "in" / request / name):
            if path.exists() and sha256(path.read_bytes()) == name:
                return path
        with one_thread():
            data = encode(from_plan(self._plan.model).init(self._store.n_items, self._plan.seed).tensors)
        if sha256(data) != name:
            raise Refused(
                "replay.base",
                f"the model that round {self._event['round']} started from is not kept",
                "Give replay_mb in site.toml more room for the next runs",
            )
        path = self._place / "base"
        path.write_bytes(data)
        return path


def _open(stack: ExitStack, path: Path, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    stack.callback(os.close, descriptor)
    return descriptor


def text_of(found: Mapping[str, Any]) -> str:
    """One replayed task as a line."""
    verdict = "the same" if found["same"] else f"DIFFERS, now {found['replayed'][:16]}"
    return f"round {found['round']} {found['kind']} {found['protocol']}: {found['recorded'][:16]} {verdict}"
