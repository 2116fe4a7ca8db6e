"""An act in an audit log: the intent is on disk before it, the outcome after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fedrec.errors import Refused
from fedrec.exchange.wire import sha256

NAMED = 1000  # requests that the event of a look at all of them names, the newest


@contextmanager
def acting(
    write: Callable[..., int], actor: str, role: str, act: str, thing: str, **ids: Any
) -> Iterator[dict[str, Any]]:
    """Write the intent, run the block, write the outcome: done, or the refusal's code, or the exception's class.

    Args:
        write: as `AuditLog.event`.

    Yields:
        What the outcome's detail has more than the intent's; `outcome` in it replaces done.
    """
    number = write(actor, role, act, thing, outcome="intent", **ids)
    facts: dict[str, Any] = {}
    outcome = ""
    try:
        yield facts
    except Refused as refusal:
        outcome = refusal.code
        raise
    except BaseException as error:
        outcome = f"error {type(error).__name__}"
        raise
    finally:
        said = facts.pop("outcome", "done")
        detail = {**ids.pop("detail", {}), **facts}
        write(actor, role, act, thing, outcome=outcome or said, of=number, detail=detail, **ids)


def reason_of(text: str) -> dict[str, str]:
    """What the log holds of a reason: its SHA-256; the text stands in the ledger, where it can be erased."""
    return {"reason": sha256(text.encode())} if text else {}


def seen(requests: Sequence[str]) -> dict[str, str | int]:
    """What the log holds of a look at many requests: how many, and the first eight digits of the newest."""
    return {"requests": len(requests), "ids": " ".join(name[:8] for name in requests[-NAMED:])}
