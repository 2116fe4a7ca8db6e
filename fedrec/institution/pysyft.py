"""The PySyft server inside the site: built with a fixed identity, fed only with calls that passed the gate.

What a scientist submits is never kept: the site takes the plan, the name and the reason, builds the submission
anew and refuses what differs (syft-0.9.5.md, M: clean-looking text with code in another field ran as root).
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

from fedrec.errors import Refused
from fedrec.exchange import request as form
from fedrec.exchange.plan import PlanText
from fedrec.institution import endpoint, shims
from fedrec.institution.envelope import Call
from fedrec.institution.ledger import Account

_log = logging.getLogger("fedrec.site")
ROOT = "root@fedrec.org"
SCHEMA = "\n\n## Schema\n\n"  # what follows in a data set's card
SYFT_ROLE = {
    "owner": "DATA_OWNER",
    "reviewer": "DATA_OWNER",
    "scientist": "DATA_SCIENTIST",
    "auditor": "DATA_SCIENTIST",
    "operator": "DATA_SCIENTIST",
}


class SyftServer:
    """PySyft's Datasite object in this process: no dev mode, no queue, no launcher, no routes of its own.

    Args:
        uid: fixed identity, 32 hex digits; key: server key, 64 hex digits. Both must stay the same over restarts.
    """

    def __init__(self, name: str, uid: str, key: str, folder: Path) -> None:
        environment = {
            "SERVER_UID": uid,
            "SERVER_PRIVATE_KEY": key,
            "SYFT_TEMP_ROOT": str(folder.absolute()),
            "SYFT_NAME": name,
            "SYFT_DEV_MODE": "False",
            "SYFT_RESET": "False",
            "SYFT_DEPLOYMENT_TYPE": "python",
            "DEFAULT_ROOT_EMAIL": ROOT,
            "DEFAULT_ROOT_USERNAME": "root",
            "DEFAULT_ROOT_PASSWORD": secrets.token_urlsafe(48),
        }
        os.environ.update(environment)
        logging.getLogger("syft").setLevel(logging.ERROR)
        quiet = contextlib.redirect_stderr(io.StringIO())
        with contextlib.redirect_stdout(io.StringIO()), quiet:  # PySyft prints its database's URL and a hash of its key
            self.syft = shims.import_syft()
            shims.apply()
            from syft.server.datasite import Datasite
            from syft.server.uvicorn import AppSettings
            from syft.service.context import AuthedServiceContext
            from syft.service.user.user_roles import ServiceRole

            self.worker = Datasite(**AppSettings().model_dump())
            self._root = AuthedServiceContext(
                server=self.worker, credentials=self.worker.verify_key, role=ServiceRole.ADMIN
            )
        self.handle = ""  # the data set's private side, which its owner may read
        for variable in environment:
            os.environ.pop(variable, None)
        logging.getLogger().setLevel(logging.ERROR)
        logging.getLogger().handlers[:] = [logging.StreamHandler()]  # PySyft's own writes into the StringIO above

    # set-up, in-process, as the root account that nobody can log in to

    def ensure_account(self, email: str, password: str, role: str) -> str:
        """Make an account if there is none, and return its verify key; an existing one keeps its password."""
        from syft.service.user.user_roles import ServiceRole

        users = self.worker.services.user
        known = [user for user in users.stash.get_all(self.worker.verify_key).unwrap() if user.email == email]
        if not known:
            users.create(
                context=self._root,
                name=email.partition("@")[0],
                email=email,
                password=password,
                password_verify=password,
                role=ServiceRole[SYFT_ROLE[role]],
            )
            known = [users.stash.get_by_email(credentials=self.worker.verify_key, email=email).unwrap()]
        return str(known[0].verify_key)

    def set_password(self, email: str, password: str) -> None:
        """Give an account another password. Its key stays: who has logged in before can go on signing calls."""
        from syft.service.user.user import salt_and_hash_password

        users = self.worker.services.user.stash
        user = users.get_by_email(credentials=self.worker.verify_key, email=email).unwrap()
        user.salt, user.hashed_password = salt_and_hash_password(password, 12)
        users.update(credentials=self.worker.verify_key, obj=user, has_permission=True).unwrap()

    def ensure_endpoint(self) -> None:
        """Register `fedrec.round`, or write its text again: PySyft keeps it in its database and executes that."""
        sy = self.syft

        @sy.api_endpoint_method(settings={})  # type: ignore[untyped-decorator]
        def private_function(context, plan: str, task: dict):  # type: ignore[no-untyped-def,type-arg]
            from fedrec.institution import endpoint

            return endpoint.call(context.credentials, plan, task)

        @sy.api_endpoint_method(settings={})  # type: ignore[untyped-decorator]
        def mock_function(context, plan: str, task: dict):  # type: ignore[no-untyped-def,type-arg]  # noqa: ARG001
            from fedrec.institution import endpoint

            return endpoint.closed()

        wanted = sy.TwinAPIEndpoint(
            path=endpoint.PATH,
            description="One task of an approved plan.",
            private_function=private_function,
            mock_function=mock_function,
            endpoint_timeout=60,
        )
        api, root = self.worker.services.api, self.worker.verify_key
        known = [item for item in api.stash.get_all(root).unwrap() if item.path == endpoint.PATH]
        if not known:
            api.set(self._root, wanted)
        elif known[0].private_function.api_code != wanted.private_function.api_code:
            known[0].private_function, known[0].mock_function = wanted.private_function, wanted.mock_function
            api.stash.upsert(root, known[0]).unwrap()
        self._endpoint = next(item for item in api.stash.get_all(root).unwrap() if item.path == endpoint.PATH)

    def ensure_dataset(self, name: str, card: str, mock: Any, handle: Mapping[str, Any]) -> None:
        """Show the data card, the mock and a handle; rows are not in PySyft's store, so no read of it can reach them.

        Args:
            mock: a DataFrame; PySyft wants the private side to be one too, so the handle is a table of one row.
        """
        sy = self.syft
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            client = self.worker.root_client
            for known in client.datasets:
                if known.name == name and known.description.text == card:
                    self.handle = known.assets[0].action_id.no_dash
                    return
                client.api.services.dataset.delete(uid=known.id, delete_assets=True)
            dataset = sy.Dataset(name=name, description=card)
            dataset.add_asset(
                sy.Asset(name="interactions", data=type(mock)([dict(handle)]), mock=mock, mock_is_real=False)
            )
            client.upload_dataset(dataset)
            self.handle = next(known for known in client.datasets if known.name == name).assets[0].action_id.no_dash

    # calls

    def metadata(self) -> dict[str, Any]:
        """What PySyft's clients ask first."""
        from syft.service.metadata.server_metadata import ServerMetadataJSON

        facts: dict[str, Any] = self.worker.metadata.to(ServerMetadataJSON).model_dump(mode="json")
        return facts

    def login(self, email: str, password: str) -> tuple[bytes, str | None]:
        """PySyft's answer to a login, and the account's verify key when it was right."""
        from syft.server.credentials import UserLoginCredentials
        from syft.service.context import UnauthedServiceContext
        from syft.service.response import SyftError
        from syft.types.errors import SyftException

        try:
            credentials = UserLoginCredentials(email=email, password=password)
            context = UnauthedServiceContext(server=self.worker, login_credentials=credentials)
            answer = self.worker.services.user.exchange_credentials(context=context).value
        except (SyftException, ValueError):
            return self.serialize(SyftError(message="Invalid credentials.")), None
        return self.serialize(answer), str(answer.signing_key.verify_key)

    def schema(self, key: str, protocol: int, paths: frozenset[str]) -> bytes:
        """The API as PySyft's clients build themselves from, cut to what the role may call."""
        from syft.server.credentials import SyftVerifyKey

        api = self.worker.get_api(SyftVerifyKey.from_string(key), protocol)
        own = {endpoint.PATH} if "api.view" in paths else set()
        api.endpoints = {
            name: item for name, item in api.endpoints.items() if item.service_path in paths or name in own
        }
        api.lib_endpoints = {}
        return self.serialize(api)

    def open(self, body: bytes, call: Call, account: Account) -> Any:
        """Deserialise a call that passed the gate; it must be what the gate read.

        Raises:
            Refused: `gate.signature`.
        """
        from syft.client.api import SignedSyftAPICall
        from syft.serde.deserialize import _deserialize

        signed = _deserialize(blob=body, from_bytes=True)
        if (
            not isinstance(signed, SignedSyftAPICall)
            or str(signed.credentials) != account.key
            or (signed.message.path, signed.message.server_uid.no_dash) != (call.path, call.site)
        ):
            raise Refused("gate.signature", "the call is not what its envelope says", "Use PySyft 0.9.5 or fedrec")
        return signed

    def run(self, signed: Any) -> Any:
        """PySyft's own result of an opened call; an error of its own comes back as its SyftError."""
        from syft.service.response import SyftError
        from syft.types.errors import SyftException

        try:
            return self.worker.handle_api_call_with_unsigned_result(signed)
        except SyftException as error:
            return SyftError(message=str(error.public_message))
        except Exception:
            _log.exception("PySyft failed in %s", signed.message.path)
            return SyftError(message="site.error: PySyft had an error. Ask the data owner to read the log")

    def forget(self, stored: Any, key: str | None = None) -> None:
        """Delete what a call left in PySyft's store, which would keep every task and answer for ever.

        Args:
            stored: its id; anything else is left alone.
            key: whose it has to be; None = the site's own.
        """
        from syft.server.credentials import SyftVerifyKey
        from syft.types.errors import SyftException
        from syft.types.uid import UID

        uid = UID(stored) if isinstance(stored, str) else getattr(stored, "id", stored)
        credentials = self.worker.verify_key if key is None else SyftVerifyKey.from_string(key)
        with contextlib.suppress(SyftException):
            if isinstance(uid, UID):
                self.worker.services.action.stash.delete_by_uid(credentials, uid).unwrap()

    def seal(self, result: Any) -> bytes:
        """A result as the bytes that PySyft's clients expect: signed with the server's key."""
        from syft.client.api import SyftAPIData

        return self.serialize(SyftAPIData(data=result).sign(self.worker.signing_key))

    def refusal(self, refused: Refused) -> bytes:
        """A refusal as PySyft's clients show it: `CODE: reason. next step`."""
        from syft.service.response import SyftError

        return self.seal(SyftError(message=str(refused)))

    def is_error(self, result: Any) -> bool:
        """Whether PySyft said no."""
        from syft.service.response import SyftError

        return isinstance(result, SyftError)

    def without_schema(self, result: Any) -> Any:
        """The data sets' cards of a successful result, cut before the schema that closes each."""
        if not self.is_error(result):
            for dataset in self.value(result):
                dataset.description.text = dataset.description.text.partition(SCHEMA)[0]
        return result

    @staticmethod
    def value(result: Any) -> Any:
        """What a successful result carries."""
        return getattr(result, "value", None) or result

    @staticmethod
    def serialize(value: Any) -> bytes:
        """PySyft's bytes of a value."""
        from syft.serde.serialize import _serialize

        data: bytes = _serialize(value, to_bytes=True)
        return data

    # the submission, built anew

    def rebuild(self, signed: Any, rebuild: bool = True) -> tuple[str, PlanText, str]:
        """Replace the submitted code by one that the site built from its plan, and return plan text, plan and reason.

        Args:
            rebuild: False leaves the submission as it came; only the attack tests' control does so.

        Raises:
            Refused: `request.form` when any field is not what the site builds.
        """
        from syft.service.code.user_code import SubmitUserCode

        message = signed.message
        given = dict(zip(("code", "reason"), message.args, strict=False)) | {
            name: value for name, value in message.kwargs.items() if name != "communication_protocol"
        }
        code, reason = given.pop("code", None), given.pop("reason", "") or ""
        if not isinstance(code, SubmitUserCode) or not isinstance(reason, str) or given:
            raise Refused(
                "request.form", "the submission has other parts than code and reason", f"Use this form:\n{form.FORM}"
            )
        plan_text, plan = form.check(code.code)
        if rebuild:
            built = self._submission(plan_text, plan)
            for name in type(built).__pydantic_fields__:
                if name not in ("id", "local_function") and not _same(getattr(code, name, None), getattr(built, name)):
                    raise Refused(
                        "request.form", f"the field {name} is not the one of the form", f"Use this form:\n{form.FORM}"
                    )
            message.args, message.kwargs = [], {**message.kwargs, "code": built, "reason": reason}
        return plan_text, plan, reason

    def _submission(self, plan_text: str, plan: PlanText) -> Any:
        from syft.client.api import ServerIdentity
        from syft.service.action.action_endpoint import CustomEndpointActionObject
        from syft.service.code.user_code import SubmitUserCode
        from syft.service.policy.policy import Constant, MixedInputPolicy, OutputPolicyExecuteOnce, UserOwned

        here = ServerIdentity(server_name=self.worker.name, server_id=self.worker.id, verify_key=self.worker.verify_key)
        rules = {
            "site": Constant(kw="site", val=self._endpoint.action_object_id, klass=CustomEndpointActionObject),
            "task": UserOwned(kw="task", type=dict),
        }
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in form.ARGUMENTS]
        return SubmitUserCode(
            code=form.write(plan_text, plan.name),
            func_name=form.function_name(plan_text, plan.name),
            signature=inspect.Signature(parameters),
            input_policy_type=MixedInputPolicy,
            input_policy_init_kwargs={here: rules},
            output_policy_type=OutputPolicyExecuteOnce,
            output_policy_init_kwargs={},
            input_kwargs=list(form.ARGUMENTS),
        )

    # what the site's attacks on itself send

    def signed_call(self, key: SigningKey, path: str, **given: Any) -> bytes:
        """A call as PySyft's clients send it."""
        from syft.client.api import SyftAPICall
        from syft.server.credentials import SyftSigningKey

        made = SyftAPICall(server_uid=self.worker.id, path=path, args=[], kwargs=given, blocking=True)
        return self.serialize(made.sign(SyftSigningKey(signing_key=key)))

    def signed_submission(self, key: SigningKey, plan_text: str, **changed: Any) -> bytes:
        """A submission of the one form, with some fields changed."""
        code = self._submission(plan_text, PlanText.parse(plan_text))
        for name, value in changed.items():
            setattr(code, name, value)
        return self.signed_call(key, "code.request_code_execution", code=code, reason="self-attack")

    def check_code(self, code: str, plan: str, name: str) -> None:
        """Compare what PySyft would execute with what the site built, before each call.

        Raises:
            Refused: `request.form`.
        """
        from syft.service.code.user_code import parse_user_code
        from syft.types.uid import UID

        item = self.worker.services.user_code.stash.get_by_uid(self.worker.verify_key, uid=UID(code)).unwrap()
        text, function = form.write(plan, name), form.function_name(plan, name)
        parsed = parse_user_code(text, item.unique_func_name, function, list(form.ARGUMENTS))
        if item.raw_code != text or item.parsed_code != parsed or item.service_func_name != function:
            raise Refused("request.form", "the stored code is not what was approved", "Tell the data owner at once")


def _same(received: Any, built: Any) -> bool:
    if isinstance(built, dict) and isinstance(received, dict):
        keep = {key: value for key, value in received.items() if key != "id"}
        want = {key: value for key, value in built.items() if key != "id"}
        return keep.keys() == want.keys() and all(_same(keep[key], want[key]) for key in want)
    if isinstance(built, type):
        return received is built
    if hasattr(built, "model_dump"):
        return type(received) is type(built) and _rule(received) == _rule(built)
    if isinstance(built, list):
        return list(received or []) == built
    return type(received) is type(built) and bool(received == built)


def _rule(rule: Any) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in type(rule).__pydantic_fields__ if name != "id"}
