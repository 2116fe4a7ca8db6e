"""The request's one form: everything else is refused, with the form to use."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import Refused
from fedrec.exchange.plan import PlanText, Tensor
from fedrec.exchange.request import FORM, check, function_name, write

PLAN = PlanText(
    "ease", "Better lists", {"name": "ease", "l2": 200.0}, {"name": "sum"}, {"gram": Tensor.parse("float32 items")}
)
TEXT = PLAN.text()
HEX = hashlib.sha256(TEXT.encode()).hexdigest()[:12]
GOOD = f'def fedrec_ease_{HEX}(site, task):\n    plan = r"""{TEXT}"""\n    return site(plan=plan, task=task)\n'
NAME = f"fedrec_ease_{HEX}"


def form(
    head=f"def {NAME}(site, task):\n",
    plan=f'    plan = r"""{TEXT}"""\n',
    tail="    return site(plan=plan, task=task)\n",
):
    return head + plan + tail


def test_the_form_is_written_and_read_back():
    assert write(TEXT, "ease") == GOOD == form()
    assert check(GOOD) == (TEXT, PLAN)
    assert function_name(TEXT, "ease") == NAME


def test_what_python_makes_of_the_text_is_the_plan():
    """The fingerprint is over the plan as Python evaluates it, so the text that is read is the text that is hashed."""
    got = {}
    exec(GOOD, got)
    assert got[NAME](lambda plan, task: (plan, task), 5) == (TEXT, 5)


CODE = "class M:\n    # C:\\new \\u0041 \"q\" {x} %s\n    def init(self, n, s):\n        return {'v': [1]}\n"


def test_own_code_with_backslashes_reaches_the_site_as_it_was_written():
    plan = PlanText(
        "mine", "P", {"name": "own", "class": "M", "code": CODE}, {"name": "mean"}, {"v": Tensor.parse("float32 1")}
    )
    text = plan.text()
    got = {}
    exec(write(text, "mine"), got)
    (function,) = [value for name, value in got.items() if name.startswith("fedrec_mine_")]
    assert function(lambda plan, **_: plan, None) == text
    assert CODE in write(text, "mine")
    assert check(write(text, "mine"))[1].own_code == CODE


OTHER = TEXT.replace("200.0", "100.0")
FORMS = {
    "nothing": "",
    "an extra statement": form(tail="    import os\n    return site(plan=plan, task=task)\n"),
    "a statement before": form(head=f"def {NAME}(site, task):\n    print(1)\n"),
    "a docstring": form(head=f"def {NAME}(site, task):\n    'doc'\n"),
    "code after the function": GOOD + "import os\n",
    "code before the function": "import os\n" + GOOD,
    "two functions": GOOD + GOOD,
    "a decorator": "@print\n" + GOOD,
    "a default argument": form(head=f"def {NAME}(site, task=print()):\n"),
    "a keyword argument": form(head=f"def {NAME}(site, *, task):\n"),
    "a third argument": form(head=f"def {NAME}(site, task, more):\n"),
    "an annotation": form(head=f"def {NAME}(site, task: print()):\n"),
    "a return annotation": form(head=f"def {NAME}(site, task) -> print():\n"),
    "other argument names": form(head=f"def {NAME}(task, site):\n"),
    "another name": form(head=f"def fedrec_best_{HEX}(site, task):\n"),
    "no fedrec in its name": form(head=f"def ease_{HEX}(site, task):\n"),
    "a wrong fingerprint": form(head=f"def fedrec_ease_{'0' * 12}(site, task):\n"),
    "a longer fingerprint": form(head=f"def {NAME}0(site, task):\n"),
    "upper case in the fingerprint": form(head=f"def fedrec_ease_{HEX.upper()}(site, task):\n"),
    "a homoglyph in its name": GOOD.replace("fedrec_ease", "fedrеc_ease", 1),
    "a full-width letter that Python reads as the name": GOOD.replace("fedrec_ease", "ｆedrec_ease", 1),
    "another plan under the old name": GOOD.replace(TEXT, OTHER),
    "a nested function": f"def outer():\n{''.join('    ' + line for line in GOOD.splitlines(keepends=True))}",
    "a function inside": form(tail="    def f(): pass\n    return site(plan=plan, task=task)\n"),
    "a lambda": f'{NAME} = lambda site, task: site(plan=r"""{TEXT}""", task=task)\n',
    "an async function": "async " + GOOD,
    "a class": GOOD.replace("def ", "class ", 1),
    "a plan that is not raw": GOOD.replace('r"""', '"""'),
    "a plan as bytes": GOOD.replace('r"""', 'rb"""'),
    "a plan as format string": GOOD.replace('r"""', 'rf"""'),
    "an upper-case raw prefix": GOOD.replace('r"""', 'R"""'),
    "a plan in single quotes": GOOD.replace('"""', "'''"),
    "a plan put together": GOOD.replace('"""\n    return', '""" + ""\n    return'),
    "an implicit concatenation": GOOD.replace('"""\n    return', '""" ""\n    return'),
    "an annotated plan": GOOD.replace("plan = r", "plan: print() = r"),
    "two targets": GOOD.replace("plan = r", "plan = site = r"),
    "another variable": GOOD.replace("plan = r", "text = r"),
    "an extra newline": GOOD + "\n",
    "a newline in front": "\n" + GOOD,
    "no newline at the end": GOOD[:-1],
    "a trailing blank": GOOD[:-1] + " \n",
    "a blank in the arguments": GOOD.replace("(site, task)", "(site,task)", 1),
    "other indentation": GOOD.replace("    plan", "  plan").replace("    return", "  return"),
    "a tab": GOOD.replace("    plan", "\tplan").replace("    return", "\treturn"),
    "carriage returns": GOOD.replace("\n", "\r\n"),
    "a comment": GOOD + "# more\n",
    "a comment inside": GOOD.replace("return site(plan=plan, task=task)", "return site(plan=plan, task=task)  # x"),
    "a semicolon": GOOD.replace("task=task)", "task=task);"),
    "positional arguments in the call": GOOD.replace("site(plan=plan, task=task)", "site(plan, task)"),
    "the call twice": GOOD.replace(
        "return site(plan=plan, task=task)", "return site(plan=plan, task=site(plan=plan, task=task))"
    ),
    "another call": GOOD.replace("return site(", "return eval("),
    "no return": GOOD.replace("return site(", "site("),
    "a line continuation": GOOD.replace("return site(", "return \\\n    site("),
    "a byte order mark": "\ufeff" + GOOD,
    "a null": GOOD + "\0",
    "a coding line": "# -*- coding: utf-7 -*-\n" + GOOD,
    "a form feed": "\f" + GOOD,
    "a lone surrogate": GOOD.replace("Better", "Bet\ud800ter"),
    "something that is no Python": GOOD + ")",
    "an empty plan": form(plan='    plan = r""""""\n'),
    "a plan that is a number": form(plan="    plan = 5\n"),
    "a walk to the builtins": form(tail="    return site(plan=plan, task=task.__class__.__base__.__subclasses__())\n"),
    "a million brackets": "(" * 1_000_000,
}


@pytest.mark.parametrize("what", FORMS)
def test_every_other_form_is_refused_with_the_form_to_use(what):
    assert FORMS[what] != GOOD
    with pytest.raises(Refused) as caught:
        check(FORMS[what])
    assert caught.value.code == "request.form"
    if caught.value.reason.startswith("the function"):
        assert FORM in caught.value.next_step


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_request_with_a_random_edit_is_refused_or_is_another_plan_in_full_form(data):
    low = data.draw(st.integers(0, len(GOOD)))
    high = data.draw(st.integers(low, min(len(GOOD), low + 20)))
    text = GOOD[:low] + data.draw(st.text(max_size=8)) + GOOD[high:]
    if text == GOOD:
        return
    with pytest.raises(Refused, match=r"request\.form"):
        check(text)  # the name holds the fingerprint, so that no single edit can be right
