"""The control socket's commands: what the person who runs a site may say to it. One JSON line in, one out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from fedrec.errors import FedrecError, WrongInput
from fedrec.institution.gate import PATHS
from fedrec.institution.head import head_of
from fedrec.institution.jobs import Jobs
from fedrec.institution.local import ACTS, LOCAL
from fedrec.institution.published import Published
from fedrec.institution.site import Site
from fedrec.institution.texts import redact

_log = logging.getLogger("fedrec.site")


class Commands:
    """The control socket's commands: one JSON line in, one out."""

    def __init__(self, site: Site, server: Any, jobs: Jobs, facts: Mapping[str, Any]) -> None:
        self._site, self._server, self._jobs, self._facts = site, server, jobs, facts

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            command = json.loads(await reader.readline())
            result = await asyncio.get_running_loop().run_in_executor(None, self._do, command)
        except FedrecError as error:
            result = {"error": str(error)}
        except Exception as error:
            _log.exception("control")
            result = {"error": f"the site failed ({type(error).__name__}); see its log"}
        writer.write(json.dumps(result).encode())
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    def _do(self, command: Mapping[str, Any]) -> dict[str, Any]:
        site, ledger = self._site, self._site.ledger
        match command:
            case {"op": "status"}:
                return {**self._facts, "paused": ledger.paused()}
            case {"op": "head", "rows": int(count)}:
                return head_of(site.audit, site.folder, site.store, count)
            case {"op": "users.list"}:
                return {"users": [{"email": a.email, "role": a.role, "enabled": a.enabled} for a in ledger.accounts()]}
            case {"op": "users.add", "email": str(email), "role": str(role), "password": str(password)}:
                if role not in PATHS:
                    raise WrongInput(f"role is one of {', '.join(PATHS)}")
                if email == site.config.owner and role != "owner":
                    raise WrongInput("the owner named in site.toml stays the owner; name another one there first")
                _check_password(password)
                with site.audit.act("site", "site", "users.add", email, detail={"role": role}):
                    ledger.add_account(email, self._server.ensure_account(email, password, role), role, site.now())
                return {"email": email, "role": role}
            case {"op": "users.reset", "email": str(email), "password": str(password)}:
                if email not in {account.email for account in ledger.accounts()}:
                    raise WrongInput("there is no such account")
                _check_password(password)
                with site.audit.act("site", "site", "users.reset", email):
                    self._server.set_password(email, password)
                return {"email": email}
            case {"op": "users.disable", "email": str(email)}:
                if email == site.config.owner:
                    raise WrongInput("the owner named in site.toml cannot be disabled; name another one there first")
                with site.audit.act("site", "site", "users.disable", email):
                    if not ledger.disable_account(email):
                        raise WrongInput("there is no such account")
                    self._jobs.stop_account(email)
                return {"email": email, "enabled": False}
            case {"op": "act", "act": str(act), "thing": str(thing), "outcome": str(outcome), **more} if act in ACTS:
                given = {name: more.get(name, "") for name in ("request", "run")} | {"of": more.get("of")}
                try:
                    number = site.audit.event(*LOCAL, act, thing, outcome=outcome, detail=more.get("detail"), **given)
                    return {"number": number}
                except (ValueError, TypeError):
                    raise WrongInput("this is not an act") from None
            case {"op": "audit.redact", "names": [*names]}:
                return {"erased": redact(site.audit, names)}
            case {"op": "models.use", "version": str(version)}:
                return self._model("models.use", Published(site.state).find(version))
            case {"op": "models.rollback"}:
                return self._model("models.rollback", Published(site.state).earlier())
        raise WrongInput("unknown command")

    def _model(self, act: str, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Change which model is served; the log says to which, before it is done."""
        said = {name: chosen[name] for name in ("model", "number", "permit")}
        with self._site.audit.act("site", "site", act, "model", detail=said):
            models = Published(self._site.state)
            return models.rollback() if act == "models.rollback" else models.use(chosen["folder"])


def _check_password(password: str) -> None:
    if len(password) < 8:
        raise WrongInput("a password has at least 8 characters")
