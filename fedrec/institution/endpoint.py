"""Where PySyft hands a task to the site: the owner's endpoint imports `call` and nothing else.

The endpoint's text is stored in PySyft's database and executed there; so it is two lines, and this module
holds what they reach. `call` never raises: PySyft masks exceptions and passes a TypeError's text on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from fedrec.errors import Refused
from fedrec.exchange.plan import fingerprint
from fedrec.institution.trouble import refusal_of

PATH = "fedrec.round"
Handler = Callable[[str, str, object], Mapping[str, Any]]
_handler: list[Handler] = []
_log = logging.getLogger("fedrec.site")


def serve(handler: Handler) -> None:
    """Say who answers tasks in this process: handler(scientist's verify key, plan's fingerprint, task)."""
    _handler[:] = [handler]


def call(key: object, plan: object, task: object) -> dict[str, Any]:
    """The answer to one task, or the refusal as an answer."""
    try:
        if not _handler:
            raise Refused("site.closed", "the site is not serving", "Try again in a minute")
        return dict(_handler[0](str(key), fingerprint(str(plan)), task))
    except Refused as refusal:
        return dict(refusal.answer())
    except Exception as error:
        _log.exception("a task ended with an exception")
        return dict(refusal_of(error).answer())


def closed() -> dict[str, Any]:
    """The answer to whoever calls the endpoint past an approved plan."""
    return dict(Refused("gate.role", "direct calls are closed", "Submit a plan").answer())
