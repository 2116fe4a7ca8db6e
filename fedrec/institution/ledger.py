"""The site's ledger: accounts, requests, permits, jobs and executed calls in one SQLite file.

Every method is one transaction; what it has returned survives a crash (WAL, synchronous=FULL but for `first_time`).
What cannot be written (a full disk, a lock that another process holds) is refused as `ledger.write`, with nothing
half done.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.config import Limits
from fedrec.errors import Refused
from fedrec.institution import spent, sums
from fedrec.institution.permit import Here, Task, check, reservable

_TABLES = """
CREATE TABLE IF NOT EXISTS accounts (email TEXT PRIMARY KEY, key TEXT UNIQUE NOT NULL, role TEXT NOT NULL,
    enabled INTEGER NOT NULL, created_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, code TEXT UNIQUE NOT NULL, fingerprint TEXT NOT NULL,
    name TEXT NOT NULL, scientist TEXT NOT NULL, key TEXT NOT NULL, plan TEXT NOT NULL, submitted_at TEXT NOT NULL,
    decision TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', decided_by TEXT NOT NULL DEFAULT '',
    decided_at TEXT NOT NULL DEFAULT '', permit TEXT, permit_state TEXT NOT NULL DEFAULT 'none');
CREATE TABLE IF NOT EXISTS jobs (key TEXT PRIMARY KEY, request TEXT NOT NULL, kind TEXT NOT NULL, run TEXT NOT NULL,
    round INTEGER NOT NULL, protocol TEXT NOT NULL, base TEXT NOT NULL, nonce TEXT NOT NULL, status TEXT NOT NULL,
    answer TEXT, reserved_at TEXT NOT NULL, ended_at TEXT NOT NULL DEFAULT '', members TEXT NOT NULL DEFAULT '[]');
CREATE INDEX IF NOT EXISTS jobs_of_request ON jobs (request, kind);
CREATE UNIQUE INDEX IF NOT EXISTS one_request_per_plan ON requests (key, fingerprint);
CREATE UNIQUE INDEX IF NOT EXISTS one_task_per_nonce ON jobs (request, run, round, kind, nonce);
CREATE TABLE IF NOT EXISTS calls (hash BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (id TEXT PRIMARY KEY, request TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS pause (one INTEGER PRIMARY KEY CHECK (one = 1), reason TEXT NOT NULL, at TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS results_of_request ON results (request);
"""
WAIT_S = 5.0  # how long a write waits for another process's lock
RESULTS = 8  # PySyft results of one request that can still be read; one account has at most 4 calls at once
_JOB = "key, request, kind, run, round, protocol, base, nonce, status, answer, members"


@dataclass(frozen=True, slots=True)
class Account:
    """A person at this site; fedrec's role decides, not PySyft's."""

    email: str
    key: str
    role: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A plan submitted to this site, with what was decided about it."""

    id: str
    code: str
    fingerprint: str
    name: str
    scientist: str
    key: str
    plan: str
    submitted_at: str
    decision: str  # waiting | approved | denied | revoked
    reason: str
    decided_by: str
    decided_at: str
    permit: str | None
    permit_state: str  # none | pending | live | ended

    @property
    def signed_permit(self) -> dict[str, Any] | None:
        """The permit while it is live, else None: a pending one is void."""
        return json.loads(self.permit) if self.permit and self.permit_state == "live" else None


@dataclass(frozen=True, slots=True)
class JobRow:
    """One task that was started under a permit."""

    key: str
    request: str
    task: Task
    status: str  # running | done | refused
    answer: dict[str, Any] | None


class Ledger:
    """Opens (and if needed makes) the ledger at `path`; one object per process, safe across threads.

    Reads have a connection of their own: they go on while a write waits.
    """

    def __init__(self, path: Path) -> None:
        self._lock, self._reading = threading.RLock(), threading.Lock()
        self._writer = 0  # the thread inside a transaction: it reads what it has just written
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=WAIT_S)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_TABLES + sums.TABLE + spent.TABLE)
        if "members" not in {row[1] for row in self._db.execute("PRAGMA table_info(jobs)")}:  # made by an older fedrec
            self._db.execute("ALTER TABLE jobs ADD COLUMN members TEXT NOT NULL DEFAULT '[]'")
        self._reader = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=WAIT_S)

    def close(self) -> None:
        """Close the file; nothing is pending."""
        self._reader.close()
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._writer = threading.get_ident()
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                reason = f"the site's ledger cannot be written ({error})"
                raise Refused("ledger.write", reason, "Send it again; if it goes on, tell the data owner") from None
            finally:
                self._writer = 0
                if self._db.in_transaction:  # SQLite ends it by itself after some errors
                    self._db.execute("ROLLBACK")

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        if self._writer == threading.get_ident():
            return self._db.execute(sql, values).fetchall()
        with self._reading:
            return self._reader.execute(sql, values).fetchall()

    # accounts

    def add_account(self, email: str, key: str, role: str, now: str) -> None:
        """Give an e-mail's key a role; an existing account keeps its key."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO accounts VALUES (?,?,?,1,?) ON CONFLICT(email) DO UPDATE SET role=?, enabled=1",
                (email, key, role, now, role),
            )

    def disable_account(self, email: str) -> bool:
        """Take every right from an account; False when there is none."""
        with self._transaction() as db:
            return db.execute("UPDATE accounts SET enabled=0 WHERE email=?", (email,)).rowcount == 1

    def accounts(self) -> list[Account]:
        """All accounts, by e-mail."""
        rows = self._rows("SELECT email, key, role, enabled FROM accounts ORDER BY email")
        return [Account(email, key, role, bool(enabled)) for email, key, role, enabled in rows]

    def account_of(self, key: str) -> Account | None:
        """The enabled account of a verify key, or None."""
        rows = self._rows("SELECT email, key, role, enabled FROM accounts WHERE key=? AND enabled=1", key)
        return Account(rows[0][0], rows[0][1], rows[0][2], True) if rows else None

    def disabled(self, key: str) -> bool:
        """Whether the account of a verify key was disabled."""
        return bool(self._rows("SELECT 1 FROM accounts WHERE key=? AND enabled=0", key))

    def first_time(self, call: bytes) -> bool:
        """Remember a call's hash for ever; False when it was there already.

        Does not wait for the disk, which takes longer than the rest of the gate: the next transaction that decides or
        spends does, for all before it too. So a power cut can only forget calls that changed nothing here.
        """
        with self._lock:
            self._db.execute("PRAGMA synchronous=NORMAL")
            try:
                with self._transaction() as db:
                    return db.execute("INSERT OR IGNORE INTO calls VALUES (?)", (call,)).rowcount == 1
            finally:
                self._db.execute("PRAGMA synchronous=FULL")

    # requests and permits

    def add_request(self, row: RequestRow) -> None:
        """Record a submitted request. Raises: Refused `request.exists`."""
        values = [getattr(row, name) for name in RequestRow.__slots__]
        try:
            with self._transaction() as db:
                db.execute(f"INSERT INTO requests VALUES ({','.join('?' * len(values))})", values)
        except sqlite3.IntegrityError:
            raise Refused("request.exists", "this very plan was submitted before", "Use that request") from None

    def requests(self) -> list[RequestRow]:
        """All requests, oldest first."""
        return [RequestRow(*row) for row in self._rows("SELECT * FROM requests ORDER BY submitted_at, id")]

    def request(self, id_or_code: str) -> RequestRow | None:
        """A request by its id or by its PySyft code id."""
        rows = self._rows("SELECT * FROM requests WHERE id=? OR code=?", id_or_code, id_or_code)
        return RequestRow(*rows[0]) if rows else None

    def request_of(self, key: str, fingerprint: str) -> RequestRow | None:
        """The request that a scientist's key made for a plan, or None."""
        rows = self._rows("SELECT * FROM requests WHERE key=? AND fingerprint=?", key, fingerprint)
        return RequestRow(*rows[0]) if rows else None

    def permit_pending(self, request: str, permit: Mapping[str, Any]) -> None:
        """Write a permit that is void until `permit_live`."""
        with self._transaction() as db:
            db.execute("UPDATE requests SET permit=?, permit_state='pending' WHERE id=?", (json.dumps(permit), request))

    def decide(self, request: str, decision: str, by: str, at: str, reason: str) -> None:
        """Record a decision; an approval makes the pending permit live, everything else ends it.

        Raises:
            Refused: `permit.denied` or `.revoked` when another owner said no while this approval was on its way.
        """
        state = "live" if decision == "approved" else "ended"
        with self._transaction() as db:
            row = self.request(request)
            if decision == "approved" and row is not None and row.permit_state != "pending":
                reason = "another owner decided in the meantime"
                raise Refused(f"permit.{row.decision}", reason, "Read it and decide again")
            db.execute(
                "UPDATE requests SET decision=?, decided_by=?, decided_at=?, reason=?, permit_state="
                "CASE WHEN permit IS NULL THEN 'none' ELSE ? END WHERE id=?",
                (decision, by, at, reason, state, request),
            )

    def void_pending(self) -> int:
        """After a crash: permits that never became live are void; returns how many there were."""
        with self._transaction() as db:
            return db.execute("UPDATE requests SET permit_state='ended' WHERE permit_state='pending'").rowcount

    def pause(self, reason: str, at: str) -> None:
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO pause VALUES (1,?,?)", (reason, at))

    def resume(self) -> bool:
        """End the pause; False when there is none."""
        with self._transaction() as db:
            return db.execute("DELETE FROM pause").rowcount == 1

    def paused(self) -> bool:
        return bool(self._rows("SELECT 1 FROM pause"))

    def check_pause(self) -> None:
        """Raises: Refused `permit.paused` while the site is paused."""
        if found := self._rows("SELECT reason, at FROM pause"):
            because = f": {found[0][0]}" if found[0][0] else ""
            raise Refused("permit.paused", f"the site has been paused since {found[0][1]}{because}", "Try again later")

    # jobs

    def live(self, request: str, now: str, here: Here) -> Mapping[str, Any]:
        """The permit of a request. Raises: Refused when it is not live now, or its scientist's account is disabled."""
        row = self.request(request)
        if row is None:
            raise Refused("permit.missing", "there is no such request", "Submit the plan first")
        permit = check(row, now, here)
        if self.disabled(row.key):
            raise Refused("permit.account", "the account that this permit is for is disabled", "Talk to the data owner")
        return permit

    def used(self, request: str) -> dict[str, int]:
        """How many tasks of each kind a request has reserved so far."""
        return dict(self._rows("SELECT kind, COUNT(*) FROM jobs WHERE request=? GROUP BY kind", request))

    def reserve(self, key: str, request: str, task: Task, now: str, here: Here, cost: int = 0) -> JobRow | None:
        """Check the permit, reserve one task and book its release's cost (spent.py), so that none can overshoot.

        Returns:
            The job that this key already has, or None when it has just been reserved.

        Raises:
            Refused: what `live`, `permit.reservable` or `spent.spend` says, `permit.paused`, or `task.nonce`.
        """
        with self._transaction() as db:
            if (known := self.job(key)) is not None:
                return known
            permit = self.live(request, now, here)
            self.check_pause()
            same = "SELECT 1 FROM jobs WHERE request=? AND run=? AND round=? AND kind=? AND nonce=?"
            if self._rows(same, request, task.run, task.round, task.kind, task.nonce):
                reason = "this nonce was sent before, with another model or other rows"
                raise Refused("task.nonce", reason, "Send a new nonce with a new task")
            reservable(permit, task, self.used(request), self._done(request, task.run), here.caps)
            spent.spend(self._rows, key, request, cost, permit, here.caps, now)
            if task.members:
                ((plan,),) = self._rows("SELECT plan FROM requests WHERE id=?", request)
                sums.enter(db, key, task, plan, permit["data_version"], here.caps)
            names, what = json.dumps(task.members), (task.kind, task.run, task.round, task.protocol)
            values = (key, request, *what, task.base, task.nonce, now, names)
            db.execute("INSERT INTO jobs VALUES (?,?,?,?,?,?,?,?,'running',NULL,?,'',?)", values)
            return None

    def leaves(self, job: str) -> None:
        """A masked answer begins to leave. Raises: Refused `sum.void`."""
        with self._transaction() as db:
            sums.leave(db, job)

    def agree(self, job: str, among: Sequence[str], apart: int) -> list[str]:
        """Whose sum a doubly masked answer is part of, see sums.agree. Raises: Refused `sum.void`, `sum.members`."""
        with self._transaction() as db:
            return sums.agree(db, job, among, apart)

    def book(self, job: str, cost: int, permit: Mapping[str, Any], caps: Limits, now: str) -> int:
        """Book a noisy release that is no task, once; what it was booked with. See spent.spend."""
        with self._transaction():
            if not spent.spent(self._rows, job=job):
                spent.spend(self._rows, job, "", cost, permit, caps, now)
            return spent.spent(self._rows, job=job)

    def spent(self, request: str | None = None, job: str | None = None) -> int:
        """What was booked for noisy releases: of a request, of one job, or of the whole site; see spent.py."""
        return spent.spent(self._rows, request, job)

    def _done(self, request: str, run: str) -> list[tuple[str, int, str, str]]:
        sql = "SELECT kind, round, protocol, status FROM jobs WHERE request=? AND run=?"
        return [tuple(row) for row in self._rows(sql, request, run)]

    def finish(self, key: str, status: str, answer: Mapping[str, Any], now: str) -> None:
        """Commit a job's end with its answer; a job ends once."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET status=?, answer=?, ended_at=? WHERE key=? AND status='running'",
                (status, json.dumps(answer), now, key),
            )

    def job(self, key: str) -> JobRow | None:
        """A job by its key."""
        rows = self._rows(f"SELECT {_JOB} FROM jobs WHERE key=?", key)
        return _job(rows[0]) if rows else None

    def running(self, request: str | None = None) -> list[JobRow]:
        """Jobs that have not ended, of one request or of all."""
        sql = f"SELECT {_JOB} FROM jobs WHERE status='running'"
        return [_job(row) for row in (self._rows(sql + " AND request=?", request) if request else self._rows(sql))]

    def jobs_of(self, request: str, run: str | None = None) -> list[JobRow]:
        """The jobs of a request or of one of its runs, in the order of their rounds and then of their start."""
        sql = f"SELECT {_JOB} FROM jobs WHERE request=? AND run=coalesce(?, run) ORDER BY round, rowid"
        return [_job(row) for row in self._rows(sql, request, run)]

    def add_result(self, result: str, request: str) -> list[str]:
        """Remember which request a PySyft result belongs to; returns the older ones that are forgotten for it."""
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO results VALUES (?,?)", (result, request))
            newest = "SELECT rowid FROM results WHERE request=? ORDER BY rowid DESC LIMIT ?"
            older = f"FROM results WHERE request=? AND rowid NOT IN ({newest})"
            forgotten = [row[0] for row in db.execute(f"SELECT id {older}", (request, request, RESULTS))]
            db.execute(f"DELETE {older}", (request, request, RESULTS))
            return forgotten

    def request_of_result(self, result: str) -> RequestRow | None:
        """The request whose call made a PySyft result."""
        rows = self._rows("SELECT request FROM results WHERE id=?", result)
        return self.request(rows[0][0]) if rows else None


def _job(row: tuple[Any, ...]) -> JobRow:
    key, request, kind, run, number, protocol, base, nonce, status, answer, members = row
    task = Task(kind, run, number, protocol, base, nonce, tuple(json.loads(members)))
    return JobRow(key, request, task, status, json.loads(answer) if answer else None)
