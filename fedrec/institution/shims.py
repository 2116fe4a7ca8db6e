"""Small replacements inside PySyft 0.9.5, each with its reason; the only place that reaches into it.

Imported by the site's own process only, before the server is built. The list is checked against the installed
version: another PySyft has other holes, so the site does not start with it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from fedrec.errors import WrongInput
from fedrec.institution import endpoint

KNOWN = "0.9.5"
_STATUSES = "fedrec statuses"  # where one call of a code keeps what it has read
_applied: list[bool] = []
_log = logging.getLogger("fedrec.pysyft")


def import_syft() -> Any:
    """PySyft without torch: the site's process never trains, and saves 120 MB and 3 s.

    Raises:
        WrongInput: the installed PySyft is not the one whose holes are known.
    """
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    import syft

    if syft.__version__ != KNOWN:
        raise WrongInput(f"PySyft {syft.__version__} is installed; this site knows the holes of {KNOWN} only")
    return syft


def apply() -> None:
    """Replace a dozen functions; calling it twice changes nothing."""
    if _applied:
        return
    _applied.append(True)
    from syft.service.api.api import TwinAPIEndpoint
    from syft.service.code.user_code import UserCode
    from syft.service.code.user_code_service import UserCodeService
    from syft.service.policy.policy import OutputPolicyExecuteCount
    from syft.service.response import SyftError
    from syft.store.db.stash import ObjectStash
    from syft.types.result import Ok

    # An endpoint call made two in-process clients that were never freed: 3.4 MB each, and the server's own
    # signing key in one of them. Our endpoint uses neither.
    TwinAPIEndpoint.get_user_client_from_server = lambda self, context: None
    TwinAPIEndpoint.get_admin_client_from_server = lambda self, context: None
    # Every call parsed, compiled and executed the text in PySyft's database, then wrote the endpoint back. The
    # text says the same as this; a changed database cannot put another one in its place.
    TwinAPIEndpoint.exec_code = _exec_code
    # Every call read and extended the whole history of outputs, which guests could forge. The ledger counts.
    UserCode.get_output_history = lambda self, context: Ok([])
    UserCode.store_execution_output = lambda self, **facts: Ok(None)
    # PySyft's own limit is not enforced (its False is ignored); the permit's is.
    OutputPolicyExecuteCount.is_valid = lambda self, context=None: True
    # Every call wrote the whole code object back for the state of a policy that has none.
    UserCodeService.update_code_state = lambda self, context, code_item: code_item
    # A caller who owns all arguments and has the mock permission runs code without any approval. Nobody has it
    # here, and asking read the code and every argument again.
    UserCodeService.is_execution_on_owned_args = lambda self, context, user_code_id, passed_kwargs: False
    UserCodeService.keep_owned_kwargs = lambda self, kwargs, context: {}
    # Every query read the caller's whole account for a role that never changes here (fedrec's own roles decide).
    ObjectStash.get_role = _remembered(ObjectStash.get_role)
    # One call read the code's status six times; it is the permit that is looked up again before anything runs.
    UserCodeService._call = _with_one_status(UserCodeService._call)
    UserCode.get_status = _read_once(UserCode.get_status)
    # Every error was printed, its traceback too, where nobody reads; the owner reads the site's log.
    SyftError.from_exception = classmethod(_told)


def _told(cls: Any, context: Any, exc: Exception, include_traceback: bool = False) -> Any:
    """PySyft's error for a caller, without a traceback; what PySyft did not expect stands in the site's log."""
    from syft.types.errors import SyftException

    if isinstance(exc, SyftException):
        return cls(message=exc.get_message(context))
    _log.error("PySyft failed", exc_info=exc)
    return cls(message=f"Something unexpected happened server side {type(exc)}")


def _exec_code(self: Any, code: Any, context: Any, *args: Any, log_id: Any = None, **given: Any) -> Any:
    from syft.types.result import Ok

    if code is not self.private_function or set(given) != {"plan", "task"}:
        return Ok(endpoint.closed())
    return Ok(endpoint.call(context.credentials, given["plan"], given["task"]))


def _remembered(get_role: Callable[..., Any]) -> Callable[..., Any]:
    """`get_role` that asks once per account; an unknown key may become an account, so it is asked for again."""
    from syft.service.user.user_roles import ServiceRole

    roles: dict[str, Any] = {}

    def remembered(self: Any, credentials: Any, session: Any = None) -> Any:
        key = str(credentials)
        if key not in roles:
            role = get_role(self, credentials=credentials, session=session)
            if role == ServiceRole.GUEST:
                return role
            roles[key] = role
        return roles[key]

    return remembered


def _with_one_status(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(self: Any, context: Any, *args: Any, **given: Any) -> Any:
        context.extra_kwargs[_STATUSES] = {}
        return call(self, context, *args, **given)

    return called


def _read_once(get_status: Callable[..., Any]) -> Callable[..., Any]:
    """`get_status` that asks once within one call of a code; everywhere else it asks each time."""

    def read(self: Any, context: Any) -> Any:
        known = None if context is None else context.extra_kwargs.get(_STATUSES)
        if known is None:
            return get_status(self, context)
        if self.id not in known:
            known[self.id] = get_status(self, context)
        return known[self.id]

    return read
