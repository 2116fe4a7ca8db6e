"""The gate's tables and its memory: who may call what. Default deny.

Stage 1 is the application's route table (site.py): what is not listed there does not exist. Stage 2 reads the
outer envelope of a PySyft call, and decides before PySyft opens it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedrec.errors import Refused
from fedrec.institution.envelope import Call, open_envelope, read_call
from fedrec.institution.ledger import Account

MAX_CALL = 2 * 10**6  # bytes of one PySyft call: a plan with own code fits, tensors do not belong there
SMALL = 64_000  # bytes still read from an address that has sent too much which no account signed
PARALLEL = 4  # PySyft calls of one key at once
OPEN = 8  # blobs and waits for a job of one key at once; each fetch is an open act in the audit log
COOKIE_S = 12 * 3600
# How many at once, and how many a second afterwards.
CALLS = (400.0, 200.0)  # of one account; the driver's fastest rounds make about 80 calls a second
STRANGERS = (300.0, 20.0)  # bodies from one address that no account signed; each SMALL bytes count as one more
PLAIN = (300.0, 20.0)  # plain reads from one address: anybody may, and each costs an answer
LOGINS = (10.0, 10 / 60)  # tries of one e-mail
LOGINS_FROM = (60.0, 1.0)  # tries from one address

_PATH = re.compile(r"[a-z_.]{1,64}")
_CARD = {"user.get_current_user", "metadata.get_metadata", "dataset.get_all"}
_EVERYONE = _CARD | {"action.get_mock", "request.get_all"}
_DECIDE = {"user.get_all", "notifications.resolve_object", "request.apply", "request.undo"}
PATHS: dict[str, frozenset[str]] = {
    "owner": frozenset(_EVERYONE | _DECIDE | {"action.get"}),
    "reviewer": frozenset(_EVERYONE | _DECIDE),
    "scientist": frozenset(
        _EVERYONE
        | {
            "api.view",
            "code.request_code_execution",
            "action.set",
            "code.call",
            "action.get",
            "action.has_storage_permission",
        }
    ),
    "auditor": frozenset(_EVERYONE - {"request.get_all"}),
    "operator": frozenset(_CARD),
}
# The site's own routes: method and resource → roles.
OWN: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("PUT blobs", "GET blobs", "GET jobs", "GET requests", "GET environment", "PUT checkpoints", "PUT refusals"),
        frozenset({"scientist"}),
    ),
    "POST pause": frozenset({"owner", "reviewer", "operator"}),
    "POST resume": frozenset({"owner", "reviewer"}),
    "POST releases": frozenset({"owner", "reviewer"}),
    "GET packs": frozenset({"owner", "reviewer", "auditor"}),
    "POST recommend": frozenset(),  # no account's: the institution's applications show a token
    "GET audit": frozenset({"owner", "reviewer", "scientist", "auditor"}),
}


class Gate:
    """Decides on PySyft calls.

    Args:
        site: the server's UID, 32 hex digits.
        account_of: verify key → enabled account, or None.
        first_time: remembers a call's hash for ever; False when it was there.
        secret: 32 bytes of the site's own, the same after a restart, so that logins outlive it.
    """

    def __init__(
        self, site: str, account_of: Callable[[str], Account | None], first_time: Callable[[bytes], bool], secret: bytes
    ) -> None:
        self._site, self._account_of, self._first_time = site, account_of, first_time
        self._cookie_key = secret
        self._busy: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()
        self._calls, self._strangers = Buckets(*CALLS), Buckets(*STRANGERS)
        self._plain = Buckets(*PLAIN)
        self._logins, self._logins_from = Buckets(*LOGINS), Buckets(*LOGINS_FROM)

    def admit(self, body: bytes, note: Callable[[Account, str], None] = lambda *_: None) -> tuple[Account, Call]:
        """The caller and the call of a body that may go on to PySyft.

        Args:
            note: told who signed for which path, so that the log of a refusal names them.

        Raises:
            Refused: `gate.size`, `.signature`, `.role`, `.rate`, `.site`, `.role` or `.replay`, in this order.
        """
        if len(body) > MAX_CALL:
            raise too_large(MAX_CALL)
        envelope = open_envelope(body)
        envelope.check_signature()
        account = self._account_of(envelope.key)
        if account is None:
            raise Refused("gate.role", "this key has no account here, or it is disabled", "Ask the data owner for one")
        call = read_call(envelope.message)
        self.call_allowed(account.key)
        note(account, call.path if _PATH.fullmatch(call.path) else "unknown")
        if call.site != self._site:
            raise Refused("gate.site", "the call is meant for another site", "Send it there")
        if call.path not in PATHS[account.role] or not call.blocking:
            raise Refused("gate.role", f"a {account.role} may not call this", "Use what your role allows")
        if not self._first_time(hashlib.sha256(bytes.fromhex(envelope.key) + envelope.message).digest()):
            raise Refused("gate.replay", "this call was made before", "Make a new call; a resent one is never executed")
        return account, call

    @contextmanager
    def place(self, key: str, most: int = PARALLEL) -> Iterator[None]:
        """Hold one of the few places that a key has for calls at the same time: PARALLEL for PySyft's, OPEN for ours.

        Raises:
            Refused: `gate.rate`.
        """
        with self._lock:
            if self._busy[key, most] >= most:
                raise Refused(
                    "gate.rate", f"more than {most} calls of one account at once", "Wait for the others to end"
                )
            self._busy[key, most] += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy[key, most] -= 1
                if not self._busy[key, most]:
                    del self._busy[key, most]

    def call_allowed(self, key: str) -> None:
        """Count one call of an account's key. Raises: Refused `gate.rate`."""
        if not self._calls.take(key):
            raise Refused("gate.rate", f"more than {CALLS[1]:g} calls of one account a second", "Wait a second")

    def largest(self, address: str) -> int:
        """How many bytes of a PySyft call are read from an address before anything is known of the caller."""
        return MAX_CALL if self._strangers.left(address) >= 1 else SMALL

    def stranger(self, address: str, size: int = 0) -> None:
        """Count a body of `size` bytes that no account signed. Raises: Refused `gate.rate`."""
        if not self._strangers.take(address, 1 + size / SMALL):
            reason = "too many calls from this address that no account here signed"
            raise Refused("gate.rate", reason, "Wait a minute")

    def asked(self, address: str) -> None:
        """Count one plain read. Raises: Refused `gate.rate`."""
        if not self._plain.take(address):
            raise Refused("gate.rate", f"more than {PLAIN[1]:g} plain reads from one address a second", "Wait a second")

    def login_allowed(self, email: str, address: str) -> None:
        """Count one try to log in. Raises: Refused `gate.rate` after ten of an e-mail, or sixty of an address."""
        if not (self._logins_from.take(address) and self._logins.take(email)):
            raise Refused("gate.rate", "too many tries to log in", "Wait a minute")

    def cookie(self, key: str) -> str:
        """What a login sets and the schema's route asks for: a key, an end, and an HMAC over both."""
        text = f"{key}.{int(time.time()) + COOKIE_S}"
        return f"{text}.{hmac.new(self._cookie_key, text.encode(), 'sha256').hexdigest()}"

    def cookie_is_of(self, cookie: str, key: str) -> bool:
        """Whether a login of this key set the cookie, less than twelve hours ago."""
        text, _, mac = cookie.rpartition(".")
        of, _, end = text.partition(".")
        own = hmac.new(self._cookie_key, text.encode(), "sha256").hexdigest()
        good = hmac.compare_digest(mac.encode(), own.encode())  # bytes: a cookie may hold any letter
        return good and of == key and end.isdigit() and time.time() < int(end)


def too_large(limit: int) -> Refused:
    """The refusal of a body above `limit` bytes."""
    return Refused("gate.size", f"the body is larger than {limit} bytes", "Send less; tensors go to /fedrec/v1/blobs")


class Buckets:
    """Token buckets by name, as many as `NAMES`; the one used longest ago is forgotten first.

    Args:
        burst: tokens of a full bucket.
        per_second: tokens that come back.
        clock: seconds.
    """

    NAMES = 10_000

    def __init__(self, burst: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._rate, self._clock = burst, per_second, clock
        self._known: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, name: str, tokens: float = 1.0) -> bool:
        """Take tokens while one is left, also more than there are; False, and nothing taken, when none is."""
        with self._lock:
            now, left = self._clock(), self.left(name)
            self._known.pop(name, None)  # the newest stands last
            self._known[name] = (left - tokens if left >= 1 else left, now)
            if len(self._known) > self.NAMES:
                del self._known[next(iter(self._known))]
            return left >= 1

    def left(self, name: str) -> float:
        """Tokens that are left; less than none after one took more than there were."""
        left, when = self._known.get(name, (self._burst, 0.0))
        return min(self._burst, left + (self._clock() - when) * self._rate)


class Nonces:
    """Remembers the nonces of own-route calls for a while.

    Args:
        seconds: how long; calls older than this are refused by their time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._seen, self._lock = seconds, dict[tuple[str, str], float](), threading.Lock()

    def fresh(self, key: str, nonce: str) -> bool:
        """Remember (key, nonce); False when it was there."""
        now = time.monotonic()
        with self._lock:
            if len(self._seen) > 1000 and now - next(iter(self._seen.values())) > 2 * self._seconds:
                self._seen = {pair: when for pair, when in self._seen.items() if now - when < 2 * self._seconds}
            if (key, nonce) in self._seen:
                return False
            self._seen[key, nonce] = now
            return True
