"""Signed calls as PySyft's own classes write them. Run as a script: importing syft takes six seconds and hides torch.

Prints one JSON object: hex of calls by name, and whether a canary was deserialised by the gate and by PySyft.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import capnp
from nacl.signing import SigningKey

_SYFT = Path(str(importlib.util.find_spec("syft").origin)).parent
SCHEMA = capnp.load(str(_SYFT / "capnp" / "recursive_serde.capnp")).RecursiveSerde  # PySyft's own, without PySyft

SITE = "5" * 12 + "4" + "5" * 3 + "a" + "5" * 15  # a UUID of version 4
KEYS = {
    name: SigningKey(name.encode().ljust(32, b"."))
    for name in ("owner", "reviewer", "scientist", "auditor", "operator", "stranger")
}


def main(canary: Path) -> None:
    from fedrec.institution import shims

    shims.import_syft()
    from syft.client.api import SyftAPICall
    from syft.serde.deserialize import _deserialize
    from syft.serde.recursive import recursive_serde_register
    from syft.serde.serialize import _serialize
    from syft.server.credentials import SyftSigningKey
    from syft.types.uid import UID

    from fedrec.institution.gate import Gate
    from fedrec.institution.ledger import Account

    class Canary:
        """Writes a file when it is made from bytes."""

    def wakes(_: bytes) -> Canary:
        canary.write_text("awake")
        return Canary()

    recursive_serde_register(Canary, serialize=lambda _: b"c", deserialize=wakes, canonical_name="Canary", version=1)

    def call(
        path: str = "request.get_all",
        site: str = SITE,
        blocking: bool = True,
        signer: str = "scientist",
        **more: object,
    ) -> bytes:
        made = SyftAPICall(server_uid=UID(site), path=path, args=[], kwargs=more, blocking=blocking)
        data: bytes = _serialize(made.sign(SyftSigningKey(signing_key=KEYS[signer])), to_bytes=True)
        return data

    calls = {
        "good": call(),
        "again": call(),
        "queued": call(blocking=False),
        "elsewhere": call(site="6" + SITE[1:]),
        "stranger": call(signer="stranger"),
        "canary": call(a=Canary()),
        "large": call(a=b"x" * 2_000_000),
        "unsigned": _serialize(
            SyftAPICall(server_uid=UID(SITE), path="request.get_all", args=[], kwargs={}), to_bytes=True
        ),
    }
    gate = Gate(SITE, lambda key: Account("s@x.org", key, "scientist", True), lambda _: True, b"s" * 32)
    gate.admit(calls["canary"])
    woken = [canary.exists()]
    _ = _deserialize(blob=calls["canary"], from_bytes=True).message
    woken.append(canary.exists())
    print(json.dumps({"calls": {name: data.hex() for name, data in calls.items()}, "woken": woken}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
