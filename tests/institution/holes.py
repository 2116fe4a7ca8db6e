"""A site with one defence taken away by name, so that its attack on itself gets through. Never part of the product.

python tests/institution/holes.py each DIR          the self-attack once for every hole; JSON: hole → what it said
python tests/institution/holes.py serve DIR HOLE    `fedrec site serve DIR` with this hole
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from small_site import make_site
from starlette.responses import Response
from starlette.routing import Route

from fedrec.cli import main as command_line
from fedrec.errors import UnsafeSite
from fedrec.institution import app, gate, jail, ledger, permit, pysyft, selfattack, serve, shims
from fedrec.institution.jail import Jail
from fedrec.institution.ledger import Account

# hole → what the warm parent does before it starts
CHILD = {
    "jail-environment": "",
    "jail-network": "jail_child._NEWNET = 0; ",
    "jail-file": "jail_child._enter = lambda *_: None; ",  # no empty root folder, and still root
    "nothing": "jail_child._enter = jail_child._limit = lambda *_: None; ",
}


def weak_jail(name: str) -> Jail:
    """A jail of level 2 with this hole."""
    before = jail.START, jail.MATH_VARIABLES
    jail.START = jail.START.replace("jail_child.main()", CHILD[name] + "jail_child.main()")
    if name == "jail-environment":
        os.environ["FEDREC_SECRET"] = "1"
        jail.MATH_VARIABLES = (*jail.MATH_VARIABLES, "FEDREC_SECRET")  # type: ignore[assignment]
    made = Jail(2)
    jail.START, jail.MATH_VARIABLES = before  # type: ignore[assignment]
    return made


def _guests() -> list[tuple[Any, str, Any]]:
    plain = gate.Gate.__init__

    def everybody(self: Any, uid: str, account_of: Any, *more: Any) -> None:
        plain(self, uid, lambda key: account_of(key) or Account("guest", key, "scientist", True), *more)

    return [(gate.Gate, "__init__", everybody)]


def _registration() -> list[tuple[Any, str, Any]]:
    plain = app.build

    def build(*parts: Any) -> Any:
        made = plain(*parts)
        made.router.routes.append(Route("/api/v2/register", parts_taken, methods=["POST"]))
        return made

    return [(app, "build", build)]


async def parts_taken(_: Any) -> Any:
    return Response(b"registered")


def _kept() -> list[tuple[Any, str, Any]]:
    plain = pysyft.SyftServer.rebuild
    return [(pysyft.SyftServer, "rebuild", lambda self, signed: plain(self, signed, rebuild=False))]


# hole → what is replaced. Each bears the name of the attack that must notice it.
HOLES: dict[str, Callable[[], list[tuple[Any, str, Any]]]] = {
    "guest-submit": _guests,
    "replay": lambda: [(ledger.Ledger, "first_time", lambda *_: True)],
    "oversized-call": lambda: [(gate.Gate, "largest", lambda *_: 10**9)],
    "admin-registration": _registration,
    "hidden-code": _kept,
    "over-limit": lambda: [(ledger, "reservable", lambda *_: None)],
    "unsigned-permit": lambda: [(permit, "signed_by", lambda *_: True)],
}


@contextmanager
def hole(name: str) -> Iterator[None]:
    """Take the defence away, and put it back."""
    replaced = [(owner, what, getattr(owner, what), new) for owner, what, new in HOLES.get(name, list)()]
    for owner, what, _, new in replaced:
        setattr(owner, what, new)
    yield
    for owner, what, old, _ in replaced:
        setattr(owner, what, old)


def each(folder: Path) -> dict[str, Any]:
    """What the self-attack says of a site with each hole, and of one without."""
    site = make_site(folder)
    walls, weak = Jail(2), {name: weak_jail(name) for name in CHILD if name != "nothing"}
    server = pysyft.SyftServer("a", site.keys.uid, site.keys.syft.encode().hex(), site.state / "syft")
    server.ensure_endpoint()
    for made in (walls, *weak.values()):
        made.wait_ready()

    def said(by: Jail) -> str:
        try:
            return f"{selfattack.check(site, server, by)} stopped"
        except UnsafeSite as error:
            return str(error)

    found: dict[str, Any] = {}
    for name in HOLES:
        with hole(name):
            found[name] = said(walls)
    began = time.monotonic()
    found |= {"none": said(walls)}
    found |= {"seconds": time.monotonic() - began}
    found |= {name: said(made) for name, made in weak.items()}
    walls.close()
    found["jail that has ended"] = said(walls)
    found["left"] = sorted(str(path.relative_to(site.folder)) for path in site.folder.rglob("*attack*"))
    found["accounts"] = [account.email for account in site.ledger.accounts()]
    for made in weak.values():
        made.close()
    site.close()
    return found


if __name__ == "__main__":
    task, place = sys.argv[1], Path(sys.argv[2])
    if task == "each":
        print(json.dumps(each(place)))
    else:
        wanted = sys.argv[3]
        if wanted == "pysyft":
            shims.KNOWN = "0.9.4"
        elif wanted in CHILD:
            serve.Jail = lambda _: weak_jail(wanted)  # type: ignore[misc, assignment]
        with hole(wanted):
            command_line.main(["site", "serve", str(place)])
