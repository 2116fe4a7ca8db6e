"""What the gate adds to a PySyft call: the site's application against PySyft's own way, the same calls in turn.

python benchmarks/gate.py [--json FILE] [--calls N]: one site in this process, without a port. Without the gate a call
is deserialised, handled and its answer signed, as PySyft's route does it; with it, all that the site's application
does is added: envelope, signature, account, rate, role, replay (on disk), and the log of refusals.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "institution"))
from small_site import Idle, make_site
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fedrec.institution import app, gate
from fedrec.institution.jobs import Jobs
from fedrec.institution.pysyft import SyftServer

PATHS = ("user.get_current_user", "dataset.get_all", "request.get_all")
LIMIT_MS = 5.0


def plain(server: SyftServer) -> Starlette:
    """PySyft's own route, without fedrec."""
    from syft.serde.deserialize import _deserialize

    def handle(body: bytes) -> bytes:
        return server.serialize(server.worker.handle_api_call(_deserialize(blob=body, from_bytes=True)))

    async def route(request: Request) -> Response:
        return Response(await run_in_threadpool(handle, await request.body()))

    return Starlette(routes=[Route("/api/v2/api_call", route, methods=["POST"])])


async def timed(application: Any, body: bytes) -> float:
    """Milliseconds of one call."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/api/v2/api_call", "raw_path": b"/api/v2/api_call", "query_string": b"", "root_path": "",
        "headers": [(b"content-length", b"1")], "client": ("127.0.0.1", 1), "server": None,
    }  # fmt: skip
    began = time.perf_counter()
    await application(scope, receive, send)
    took = 1000 * (time.perf_counter() - began)
    assert sent[0]["status"] == 200
    assert b"gate." not in sent[1]["body"], sent[1]["body"][-300:]
    return took


async def compare(server: SyftServer, both: dict[str, Any], key: Any, path: str, calls: int) -> dict[str, Any]:
    """Medians of one path with and without the gate, call by call in turn."""
    took: dict[str, list[float]] = {name: [] for name in both}
    for number in range(calls + 20):
        for name, application in both.items():
            body = server.signed_call(key, path)
            spent = await timed(application, body)
            if number >= 20:  # the first ones fill PySyft's caches
                took[name].append(spent)
    middle = {name: statistics.median(values) for name, values in took.items()}
    pairs = [one - other for one, other in zip(took["gate"], took["plain"], strict=True)]
    return {
        "path": path,
        "calls": calls,
        "with_ms": round(middle["gate"], 2),
        "without_ms": round(middle["plain"], 2),
        "added_ms": round(middle["gate"] - middle["plain"], 2),
        "added_pairwise_ms": round(statistics.median(pairs), 2),
    }


def admit_ms(site: Any, server: SyftServer, key: Any, calls: int) -> float:
    """Median of the gate's decision alone, over fresh calls."""
    door, took = gate.Gate(site.keys.uid, site.ledger.account_of, site.ledger.first_time, b"s" * 32), []
    for _ in range(calls):
        body = server.signed_call(key, PATHS[0])
        began = time.perf_counter()
        door.admit(body)
        took.append(1000 * (time.perf_counter() - began))
        time.sleep(0.005)  # below the rate of one account
    return round(statistics.median(took), 2)


def main(calls: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        site = make_site(Path(folder))
        server = SyftServer("a", site.keys.uid, site.keys.syft.encode().hex(), site.state / "syft")
        public = server.ensure_account("sci@lab.example", "password", "scientist")
        site.ledger.add_account("sci@lab.example", public, "scientist", site.now())
        from syft.serde.deserialize import _deserialize

        key = _deserialize(blob=server.login("sci@lab.example", "password")[0], from_bytes=True).signing_key.signing_key
        gate.CALLS = (1e9, 1e9)  # type: ignore[assignment]  # the rate is counted, but not reached
        both = {"plain": plain(server), "gate": app.build(site, server, Jobs(site, Idle()))}  # type: ignore[arg-type]

        async def every() -> list[dict[str, Any]]:
            return [await compare(server, both, key, path, calls) for path in PATHS]

        rows = asyncio.run(every())
        alone = admit_ms(site, server, key, min(calls, 500))
        site.close()
    worst = max(row["added_ms"] for row in rows)
    return {"rows": rows, "admit_ms": alone, "limit_ms": LIMIT_MS, "holds": worst < LIMIT_MS}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    report = main(given.calls)
    for row in report["rows"]:
        print(
            f"{row['path']:24} with {row['with_ms']:6.2f} ms, without {row['without_ms']:6.2f} ms: "
            f"the gate adds {row['added_ms']:5.2f} ms (pairs {row['added_pairwise_ms']:5.2f}) over {row['calls']} calls"
        )
    print(f"the decision alone takes {report['admit_ms']:.2f} ms; limit {LIMIT_MS:g} ms: {report['holds']}")
    if given.json:
        Path(given.json).write_text(json.dumps(report, indent=1) + "\n")
