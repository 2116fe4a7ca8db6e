"""PySyft's own client over our line: log in, look at mocks, send the one form, call the approved function."""

from __future__ import annotations

import contextlib
import json
import linecache
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import syft as sy
from IPython.utils.capture import capture_output
from nacl.signing import SigningKey
from syft.client.api import SyftAPICall, post_process_result
from syft.client.client import HTTPConnection
from syft.client.datasite_client import DatasiteClient
from syft.serde.deserialize import _deserialize
from syft.serde.serialize import _serialize
from syft.service.action.action_object import ActionObject
from syft.service.policy.policy import CreatePolicyRuleConstant
from syft.types.errors import SyftException

from fedrec.errors import Refused
from fedrec.exchange import request as form
from fedrec.exchange import signing
from fedrec.exchange.wire import sha256
from fedrec.scientist.line import Line

_lines: dict[str, Line] = {}


class LineConnection(HTTPConnection):  # type: ignore[misc]
    """PySyft's connection with one kept-open socket, a time limit and counted bytes instead of bare requests."""

    __canonical_name__ = "FedrecLineConnection"
    __version__ = 1

    line_name: str = ""
    headers: dict[str, str] | None = None

    @property
    def line(self) -> Line:
        return _lines[self.line_name]

    def _make_get(self, path: str, params: dict[str, Any] | None = None, stream: bool = False) -> bytes:  # noqa: ARG002
        return self._plain("GET", path + (f"?{urlencode(params)}" if params else ""))

    def _make_post(self, path: str, json: dict[str, Any] | None = None, data: bytes | None = None) -> bytes:
        return self._plain("POST", path, _dumps(json) if data is None else data)

    def make_call(self, signed_call: Any) -> Any:
        return _deserialize(
            self._plain("POST", "/api/v2/api_call", _serialize(signed_call, to_bytes=True)), from_bytes=True
        )

    def _plain(self, method: str, target: str, body: bytes = b"") -> bytes:
        headers = {"Content-Type": "application/json"} if target.endswith("/login") else {}
        if cookie := (self.headers or {}).get("Cookie"):
            headers["Cookie"] = cookie
        reply = self.line.call(method, target, body, headers)
        if reply.status != 200:
            raise reply.refusal()
        for value in reply.headers.get_all("Set-Cookie") or []:
            self.headers = {"Cookie": value.partition(";")[0]}
        return reply.body


class SyftSite:
    """A scientist's or an owner's login at one site.

    Raises:
        Refused: `login.password` for a wrong e-mail or password, `site.lost`, `site.tls`.
    """

    def __init__(self, name: str, url: str, email: str, password: str, ca: Path | None = None) -> None:
        self.line = Line(name, url, ca)
        _lines[name + url] = self.line
        connection = LineConnection(url=url, line_name=name + url)
        try:
            self.client = DatasiteClient(connection=connection).login(email=email, password=password)
        except SyftException as error:
            text = str(error.public_message or error)
            if "Invalid credentials" in text:
                raise Refused(
                    "login.password", f"{name}: e-mail or password is wrong", "Check FEDREC_USER and FEDREC_PASSWORD"
                ) from None
            raise refusal_of(text) from None
        except AttributeError as error:
            raise _meant(error) from None
        self.uid = str(self.client.id.no_dash)
        self.key: SigningKey = self.client.credentials.signing_key

    def mock(self) -> Any:
        """The mock as a DataFrame."""
        return next(iter(self.client.datasets)).assets[0].mock

    def submit(self, plan_text: str, name: str, reason: str) -> str:
        """Send a plan as a PySyft code request; its id, 32 hex digits."""
        source, function = form.write(plan_text, name), form.function_name(plan_text, name)
        file = f"<{function}>"
        linecache.cache[file] = (len(source), None, source.splitlines(True), file)  # PySyft reads the source from there
        namespace: dict[str, Any] = {}
        exec(compile(source, file, "exec"), namespace)
        with said():
            site = CreatePolicyRuleConstant(val=self.client.api.services.fedrec.round)
            policy = sy.MixedInputPolicy(client=self.client, site=site, task=dict)
            submitted = sy.syft_function(name=function, input_policy=policy)(namespace[function])
            return str(self.client.code.request_code_execution(submitted, reason=reason).id.no_dash)

    def call(self, function: str, task: dict[str, Any]) -> dict[str, Any]:
        """Call the approved function with a task; the site's answer.

        The three calls of PySyft's own `client.code.<function>(task=task).get()`, without the two questions that it
        asks in between (whether the task is small, whether the answer is stored there): half of a round's calls.
        """
        with said():
            code = getattr(self.client.code, function).user_code_id
            given = ActionObject.from_obj(
                task, syft_client_verify_key=self.client.credentials.verify_key, syft_server_location=self.client.id
            )
            given.syft_server_uid = self.client.id
            given.syft_action_saved_to_blob_store = False  # a task is small
            self._call("action.set", given)
            result = self._call("code.call", uid=code, task=given.id)
            answer = self._call("action.get", result.id)
        return dict(answer.syft_action_data)

    def _call(self, path: str, *given: Any, **named: Any) -> Any:
        api = self.client.api
        named["communication_protocol"] = api.communication_protocol
        call = SyftAPICall(server_uid=self.client.id, path=path, args=list(given), kwargs=named, blocking=True)
        return post_process_result(api.make_call(call), unwrap_on_success=True)

    def own(self, method: str, target: str, body: bytes = b"", request: str = "") -> bytes:
        """Call one of the site's own routes, signed with the account's key; the answer's body.

        Args:
            request: whose permit the call is made under, if any.

        Raises:
            Refused: the site's refusal.
        """
        signed = signing.headers(self.key, method, target, self.uid, body=sha256(body), permit=request)
        reply = self.line.call(method, target, body, signed)
        if reply.status != 200:
            raise reply.refusal()
        return reply.body

    def put(self, request: str, name: str, data: bytes) -> None:
        """Send a blob, named by its SHA-256, under a request's permit. Raises: Refused the site's refusal."""
        target = f"/fedrec/v1/blobs/{name}"
        signed = signing.headers(self.key, "PUT", target, self.uid, body=name, permit=request)
        reply = self.line.call("PUT", target, data, signed)
        if reply.status != 200:
            raise reply.refusal()

    def pause(self, reason: str) -> dict[str, Any]:
        """Stop the whole site at once, as owner, reviewer or operator; how many jobs are still ending."""
        return dict(json.loads(self.own("POST", "/fedrec/v1/pause", reason.encode())))

    def resume(self) -> dict[str, Any]:
        """End the pause, as owner or reviewer; how many jobs begin again."""
        return dict(json.loads(self.own("POST", "/fedrec/v1/resume")))

    def release(self, request: str, reason: str = "") -> dict[str, Any]:
        """Let go what the site's leak gate holds of a request, as owner or reviewer; how many jobs go on."""
        return dict(json.loads(self.own("POST", f"/fedrec/v1/releases/{request}", reason.encode())))

    def pages(self, after: int = -1) -> Iterator[dict[str, Any]]:
        """The site's audit log after an event's number, as it stands; a scientist's holds his own acts.

        A page has `events`, and in `texts` by name the files beside the log that they name. Reading is an event too.
        """
        while True:
            page = json.loads(self.own("GET", f"/fedrec/v1/audit?after={after}"))
            yield page
            if page["next"] is None:
                return
            after = page["next"]

    def pack(self, run: str, request: str = "", alone: bool = False) -> bytes:
        """The site's evidence pack of a run, as a ZIP; for owner, reviewer and auditor."""
        query = urlencode({"request": request, "alone": int(alone)})
        return self.own("GET", f"/fedrec/v1/packs/{quote(run, safe='')}?{query}")

    def events(self, after: int = -1) -> Iterator[dict[str, Any]]:
        """The events of `pages`, each text in the place of its name."""
        for page in self.pages(after):
            texts = {f"~{name}": text.partition("\n")[2] for name, text in page["texts"].items()}
            for event in page["events"]:
                detail = {key: texts.get(value, value) for key, value in event["detail"].items()}
                named = {key: texts.get(event[key], event[key]) for key in ("actor", "object", "purpose")}
                yield {**event, **named, "detail": detail}

    def approve(self, request: str, **limits: Any) -> None:
        """Send `request.apply`, exactly as PySyft's `request.approve(**limits)` does."""
        with said():
            self.client.api.services.request.apply(sy.UID(request), **limits)

    def undo(self, request: str, reason: str) -> None:
        """Send `request.undo`, exactly as PySyft's `request.deny(reason)` does: deny or revoke."""
        with said():
            self.client.api.services.request.undo(uid=sy.UID(request), reason=reason)


@contextlib.contextmanager
def quiet() -> Any:
    """Keep what PySyft prints and displays off terminal and notebook. Not for threads: enter it once, around them."""
    with capture_output(stderr=False):
        yield


@contextlib.contextmanager
def said() -> Any:
    """Turn PySyft's error with our text, `CODE: reason. next step`, back into the refusal."""
    try:
        yield
    except SyftException as error:
        raise refusal_of(str(error.public_message or error)) from None
    except AttributeError as error:
        _, told, text = str(error).partition("on a SyftError with message: ")
        if told:  # PySyft went on with an error as if it were the answer
            raise refusal_of(text) from None
        if "has no submodule or method" not in str(error):  # the schema leaves the call out
            raise _meant(error) from None
        raise Refused("gate.role", "this account may not call this", "Use an account with the role for it") from None


def _meant(error: AttributeError) -> Exception:
    """The refusal in whose place PySyft failed, because it expects its own exceptions only; else the error itself."""
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, Refused):
            return before
        before = before.__cause__ or before.__context__
    return error


def refusal_of(text: str) -> Refused:
    """The refusal whose text is `CODE: reason. next step`; PySyft's own texts become `site.pysyft`."""
    code, colon, rest = text.partition(": ")
    part, dot, _ = code.partition(".")
    if colon and dot and part.isalpha() and " " not in code:
        reason, _, step = rest.partition(". ")
        return Refused(code, reason, step)
    return Refused("site.pysyft", text.splitlines()[0] if text else "PySyft said no", "Ask the data owner")


def _dumps(value: Any) -> bytes:
    return json.dumps(value).encode()
