"""docs/errors.md lists the refusal codes that the package raises, all of them and no others."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fedrec
from fedrec.errors import Refused

PACKAGE = Path(fedrec.__file__).parent
DOC = PACKAGE.parent / "docs" / "errors.md"
CODE = re.compile(r"[a-z]+\.[a-z0-9_]+")

# Where a code is not a literal: the codes that can come out there. A new such place fails the test until it is named.
COMPUTED = {
    "exchange/passport.py": {
        f"update.{field}" for field in ("site", "request", "plan", "kind", "protocol", "nonce", "members", "shared_key")
    }
    | {"update.stale"},
    "institution/ledger.py": {"permit.denied", "permit.revoked"},
    "errors.py": {"site.unknown"},  # an answer without a code
    "scientist/federation.py": set(),  # these three pass a site's refusal on
    "scientist/runs.py": set(),
    "scientist/syft_client.py": set(),
}


def first_arguments() -> list[tuple[str, int, ast.Call]]:
    """Every call that makes a refusal: file below the package, line, call."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        heirs = {
            call
            for cls in ast.walk(tree)
            if isinstance(cls, ast.ClassDef) and any(getattr(base, "id", "") == "Refused" for base in cls.bases)
            for call in ast.walk(cls)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "__init__"
        }
        own = path.name == "errors.py"
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", "")
                if name == "Refused" or node in heirs or (own and name == "cls"):
                    found.append((path.relative_to(PACKAGE).as_posix(), node.lineno, node))
    return found


def literal_answers() -> set[str]:
    """Codes of refusals that are written as a dict or as text, where PySyft executes a stored function."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                found |= {
                    value.value
                    for key, value in zip(node.keys, node.values, strict=True)
                    if isinstance(key, ast.Constant) and key.value == "code" and isinstance(value, ast.Constant)
                }
    return {str(code) for code in found}


def documented() -> list[str]:
    return re.findall(r"^\| `([a-z]+\.[a-z0-9_]+)` \|", DOC.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_list_and_the_package_name_the_same_codes():
    calls = first_arguments()
    assert len(calls) > 80, "the package raises many refusals: has the reader of this test gone blind?"
    raised, computed = literal_answers(), set()
    for file, line, call in calls:
        code = call.args[0]
        if isinstance(code, ast.Constant):
            assert CODE.fullmatch(str(code.value)), f"fedrec/{file}:{line}: {code.value!r} is no code"
            raised.add(str(code.value))
        else:
            assert file in COMPUTED, f"fedrec/{file}:{line}: say in COMPUTED which codes this can be"
            computed.add(file)
    assert computed == set(COMPUTED)
    for codes in COMPUTED.values():
        raised |= codes
    listed = documented()
    assert len(listed) == len(set(listed)), "a code stands twice in docs/errors.md"
    assert set(listed) - raised == set(), "docs/errors.md lists codes that nothing raises"
    assert raised - set(listed) == set(), "docs/errors.md lacks codes that the package raises"


def test_every_refusal_has_a_reason_and_a_next_step():
    for file, line, call in first_arguments():
        assert len(call.args) == 3, f"fedrec/{file}:{line}: code, reason, next step"
        for part in call.args[1:]:
            if isinstance(part, ast.Constant):
                assert str(part.value).strip(), f"fedrec/{file}:{line}: an empty text"
                assert not str(part.value).endswith("."), f"fedrec/{file}:{line}: the full stop is added by Refused"


def test_the_codes_of_a_passport_are_those_of_the_fields_that_the_driver_checks():
    """So that COMPUTED cannot fall behind: each field, wrong, gives its code."""
    from nacl.signing import SigningKey

    from fedrec.exchange import passport

    key = SigningKey(bytes(32))
    facts = passport.sign(dict.fromkeys(sorted(passport.FIELDS), "right"), key)
    for field in (
        "site",
        "request",
        "plan",
        "run",
        "round",
        "kind",
        "protocol",
        "base",
        "nonce",
        "members",
        "shared_key",
    ):
        with pytest.raises(Refused) as refused:
            passport.check(facts, key=key.verify_key.encode().hex(), **{field: "wrong"})
        assert refused.value.code in COMPUTED["exchange/passport.py"]
    text = (PACKAGE / "scientist" / "fetch.py").read_text(encoding="utf-8")
    call = next(
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "passport.check"
    )
    named = {word.arg for word in call.keywords if word.arg} - {"key"}
    spread = [word.value for word in call.keywords if word.arg is None]
    named |= {item.value for part in spread for item in ast.walk(part) if isinstance(item, ast.Constant)}
    assert named == {
        "site",
        "request",
        "plan",
        "run",
        "round",
        "kind",
        "protocol",
        "base",
        "nonce",
        "members",
        "shared_key",
    }


def test_the_exit_codes_are_those_of_the_error_classes():
    from fedrec.errors import FedrecError, WrongInput

    text = DOC.read_text(encoding="utf-8")
    for code, word in (
        (WrongInput.exit_code, "wrong input"),
        (Refused.exit_code, "refused"),
        (FedrecError.exit_code, "a bug"),
    ):
        assert re.search(rf"^\| {code} \| {word}", text, re.MULTILINE), (code, word)
