"""A site whose defences a test takes away one at a time: the control of the attack tests. Never part of the product.

    python tests/attacks/weak_site.py DIR        DIR/state/without names the defences that are off now

Everything else is `fedrec site serve`. Each class leaves out one check of the class that it extends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fedrec.config import Limits
from fedrec.institution import app, calls, gate, ledger, outgoing, pysyft, serve, site
from fedrec.institution.blobs import Blobs
from fedrec.institution.decisions import Decisions
from fedrec.institution.envelope import open_envelope, read_call
from fedrec.institution.guard import Guard
from fedrec.institution.ledger import Account
from fedrec.institution.permit import reservable

FOLDER = Path(sys.argv[1])


def off(defence: str) -> bool:
    """Whether the test has taken this defence away."""
    try:
        return defence in (FOLDER / "state" / "without").read_text().split()
    except FileNotFoundError:
        return False


class WeakPaths(dict[str, frozenset[str]]):
    """The tables of roles; without `role` everybody may call everything."""

    def __getitem__(self, role: str) -> Any:
        return Everything() if off("role") else super().__getitem__(role)

    def get(self, what: str, default: Any = None) -> Any:
        return Everything() if off("role") else super().get(what, default)


class Everything:
    """A set that holds whatever one asks for."""

    def __contains__(self, path: object) -> bool:
        return True


class WeakGate(gate.Gate):
    """Without `account`, a key that nobody knows is a scientist's; without `replay`, a call may come twice."""

    def __init__(self, uid: str, account_of: Any, first_time: Any, secret: bytes) -> None:
        def known(key: str) -> Account | None:
            guest = Account("guest", key, "scientist", True) if off("account") else None
            return account_of(key) or guest

        super().__init__(uid, known, lambda call: first_time(call) or off("replay"), secret)

    def cookie_is_of(self, cookie: str, key: str) -> bool:
        return off("cookie") or super().cookie_is_of(cookie, key)

    def login_allowed(self, email: str, address: str) -> None:
        if not off("rate"):
            super().login_allowed(email, address)

    def call_allowed(self, key: str) -> None:
        if not off("rate"):
            super().call_allowed(key)

    def stranger(self, address: str, size: int = 0) -> None:
        if not off("rate"):
            super().stranger(address, size)

    def place(self, *given: Any) -> Any:
        return contextlib.nullcontext() if off("rate") else super().place(*given)

    def asked(self, address: str) -> None:
        if not off("rate"):
            super().asked(address)

    def largest(self, address: str) -> int:
        return 10**9 if off("size") else super().largest(address)

    def admit(self, body: bytes, note: Any = lambda *_: None) -> Any:
        """Without `elsewhere`, a call for another site is taken as one for this."""
        if not off("elsewhere"):
            return super().admit(body, note)
        envelope = open_envelope(body)
        envelope.check_signature()
        account, call = self._account_of(envelope.key), read_call(envelope.message)
        assert account is not None
        note(account, call.path)
        return account, call


class WeakServer(pysyft.SyftServer):
    """Without `rebuild`, the site keeps what the scientist sent; without `compare`, it runs what it finds stored."""

    def rebuild(self, signed: Any, rebuild: bool = True) -> Any:
        return super().rebuild(signed, rebuild and not off("rebuild"))

    def check_code(self, *given: Any, **more: Any) -> Any:
        return None if off("compare") else super().check_code(*given, **more)


class WeakDecisions(Decisions):
    """Without `self`, the approver may be the requester."""

    def approve(self, by: Account, *given: Any) -> None:
        super().approve(dataclasses.replace(by, email="else@x", key="00" * 32) if off("self") else by, *given)


class WeakSyftCalls(calls.SyftCalls):
    """Without `results`, a result is read without its permit; without `threads`, owners wait for scientists' calls.

    Without `mine`, a call of another account's request is taken for that account's.
    """

    def _call(self, account: Account, signed: Any) -> Any:
        row = self._site.ledger.request(getattr(signed.message.kwargs.get("uid"), "no_dash", ""))
        if off("mine") and row is not None:
            account = dataclasses.replace(account, key=row.key)
        return super()._call(account, signed)

    def _get(self, *given: Any) -> Any:
        return self._server.run(given[-1]) if off("results") else super()._get(*given)

    def _thread(self, account: Account) -> Any:
        return self._threads[False] if off("threads") else super()._thread(account)


class WeakRoutes:
    """The jobs as the own routes see them: without `permit`, none is looked up while bytes go in or out."""

    def __init__(self, behind: Any) -> None:
        self._behind = behind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._behind, name)

    def permit_of(self, request: str) -> Any:
        return {"limits": Limits().model_dump()} if off("permit") else self._behind.permit_of(request)


class WeakCalls(app.Calls):
    """Without `permit`, a blob is given without one; without `names`, by any name; and so on."""

    def __init__(self, site: Any, jobs: Any, *given: Any) -> None:
        super().__init__(site, WeakRoutes(jobs), *given)  # type: ignore[arg-type]

    def _signed(self, request: Any, body: str) -> tuple[str, str]:
        if off("signature"):
            key = request.headers["x-fedrec-key"]
            request.state.account = self._site.ledger.account_of(key)
            return key, request.headers["x-fedrec-permit"]
        fresh = self._nonces.fresh
        if off("nonce"):
            self._nonces.fresh = lambda key, nonce: True  # type: ignore[method-assign]
        try:
            return super()._signed(request, body)
        finally:
            self._nonces.fresh = fresh  # type: ignore[method-assign]

    def _own_call(self, request: Any, body: str, *names: str) -> str:
        if off("permit") or off("owner"):
            _, row_id = self._signed(request, body)
            if off("permit"):
                return row_id
            self._jobs.permit_of(row_id)
            return row_id
        return super()._own_call(request, body, *(() if off("names") else names))


class WeakBlobs(Blobs):
    """Without `digest`, a body need not be what its name says; without `size`, it may be as large as it likes."""

    async def receive(self, request: str, sha256: str, parts: AsyncIterator[bytes], limit: int) -> int:
        if not off("digest"):
            return await super().receive(request, sha256, parts, 10**9 if off("size") else limit)
        target = self.path("in", request, sha256)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        return target.write_bytes(b"".join([part async for part in parts]))


class WeakGuard(Guard):
    """Without `guard`, everything may leave."""

    def check(self, *given: Any) -> None:
        if not off("guard"):
            super().check(*given)


def weak_reservable(*given: Any) -> None:
    """Without `rounds`, a permit has room for everything."""
    if not off("rounds"):
        reservable(*given)


def _ready(facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    gate.PATHS = calls.PATHS = WeakPaths(gate.PATHS)  # type: ignore[attr-defined]
    app.OWN = WeakPaths(gate.OWN)  # type: ignore[attr-defined]
    app.Gate, app.Calls, app.Decisions = WeakGate, WeakCalls, WeakDecisions  # type: ignore[misc, attr-defined]
    app.SyftCalls = WeakSyftCalls  # type: ignore[misc, attr-defined]
    pysyft.SyftServer, site.Blobs = WeakServer, WeakBlobs  # type: ignore[misc, attr-defined]
    outgoing.Guard = WeakGuard  # type: ignore[misc]
    ledger.reservable = weak_reservable  # type: ignore[attr-defined]
    serve.serve(FOLDER, os.environ.pop("FEDREC_OWNER_PASSWORD"), _ready)
