"""The request's one form: written for the scientist, checked for the site, side by side."""

from __future__ import annotations

import ast

from fedrec.errors import Refused
from fedrec.exchange.plan import PlanText, fingerprint

ARGUMENTS = ("site", "task")

FORM = '''def fedrec_<name>_<first 12 hex digits of the plan's SHA-256>(site, task):
    plan = r"""
...the plan: TOML as fedrec.Plan writes it...
"""
    return site(plan=plan, task=task)
'''


def function_name(plan: str, name: str) -> str:
    """The only name that the request's function may have."""
    return f"fedrec_{name}_{fingerprint(plan)[:12]}"


def write(plan: str, name: str) -> str:
    """The text of the request's function for the plan `name`."""
    head = f"def {function_name(plan, name)}(site, task):"
    return f'{head}\n    plan = r"""{plan}"""\n    return site(plan=plan, task=task)\n'


def check(text: str) -> tuple[str, PlanText]:
    """The plan's text and the plan of a request that has the one form.

    Raises:
        Refused: `request.form`, with the form to use.
    """
    plan_text = _plan_string(text)
    plan = PlanText.parse(plan_text)
    if write(plan_text, plan.name) != text:
        raise _other_form()
    return plan_text, plan


def _plan_string(text: str) -> str:
    """The literal that the first statement assigns; everything else is compared by `check`."""
    try:
        match ast.parse(text).body:
            case [ast.FunctionDef(body=[ast.Assign(value=ast.Constant(value=str(plan))), ast.Return()])]:
                return plan
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    raise _other_form()


def _other_form() -> Refused:
    return Refused("request.form", "the function is not in the one allowed form", f"Use this form:\n{FORM}")
