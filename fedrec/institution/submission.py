"""Submissions, built anew: what a scientist sent is never kept.

The site takes the plan, the name and the reason, builds PySyft's submission itself and refuses what differs
(syft-0.9.5.md, M: clean-looking text with code in another field ran as root).
"""

from __future__ import annotations

import inspect
from typing import Any

from nacl.signing import SigningKey

from fedrec.errors import Refused
from fedrec.exchange import request as form
from fedrec.exchange.plan import PlanText


class Submissions:
    """What `SyftServer` does with submissions; `worker` is PySyft's server, `_endpoint` the site's own in it."""

    worker: Any
    _endpoint: Any

    @staticmethod
    def serialize(value: Any) -> bytes:
        """PySyft's bytes of a value."""
        from syft.serde.serialize import _serialize

        data: bytes = _serialize(value, to_bytes=True)
        return data

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
