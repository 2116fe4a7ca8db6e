"""The PySyft server inside the site: built with a fixed identity, fed only with calls that passed the gate."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrec.errors import Refused
from fedrec.institution import endpoint, shims
from fedrec.institution.envelope import Call
from fedrec.institution.ledger import Account
from fedrec.institution.submission import Submissions

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


class SyftServer(Submissions):
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

    def code_of(self, result: Any) -> str:
        """The code of a refusal that a task's answer holds, which is no error to PySyft; "" for any other result."""
        answer = getattr(self.value(result), "syft_action_data", None)
        return str(answer.get("code", "")) if isinstance(answer, dict) and answer.get("status") == "refused" else ""

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
