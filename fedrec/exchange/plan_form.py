"""The form of a plan's text: what it may hold, so that what an owner reads is what runs."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from fedrec.errors import Refused

_SETTING = re.compile(r"[a-z][a-z0-9_]{0,30}")
# Default-ignorable characters outside category C (Unicode 15, DerivedCoreProperties) and the blank Braille cell.
_SHAPELESS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def check_text(text: str) -> None:
    """Refuse what would make the read text differ from the run text.

    Raises:
        Refused: `request.form` for three double quotes, a trailing backslash, CR, tab, or a character
            that is invisible or changes the direction of the writing.
    """
    if '"""' in text:
        raise bad_form(
            "the plan holds three double quotes; write docstrings and texts with single quotes or as # comments"
        )
    if text.endswith("\\"):
        raise bad_form("the plan ends in a backslash")
    _check_visible(text)


def _check_visible(text: str) -> None:
    """Only letters, signs, the plain space and the line end: no other blanks, no letters without a shape."""
    for char in text:
        kind = unicodedata.category(char)
        if char not in " \n" and (kind[0] in "CZ" or _SHAPELESS.match(char)):
            raise bad_form(f"the plan holds the invisible character U+{ord(char):04X}")


def bad_form(reason: str) -> Refused:
    """What is wrong with the form of a plan."""
    return Refused("request.form", reason, "Make the plan with fedrec.Plan(...) and submit it again")


def table_text(title: str, values: Mapping[str, Any]) -> str:
    """One table as TOML; literals only.

    Raises:
        Refused: `request.form`.
    """
    lines = [f"[{title}]"] if title else []
    for key, value in values.items():
        if not _SETTING.fullmatch(key):
            raise bad_form(f"the setting's name {key!r} is not of the form a-z, 0-9, _")
        lines.append(f"{key} = {literal(value)}")
    return "\n".join(lines) + "\n"


def literal(value: Any) -> str:
    """A setting as TOML.

    Raises:
        Refused: `request.form` for what is no literal or no finite number.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise bad_form("a setting is not a finite number")
        return repr(value)
    if isinstance(value, str):
        _check_visible(value)  # before JSON's escapes hide it
        if "\n" not in value:
            return json.dumps(value, ensure_ascii=False)
        if "'''" in value:
            raise bad_form("own code holds three single quotes")
        return "'''\n" + value + "'''"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(part) for part in value) + "]"
    raise bad_form(f"a setting is a {type(value).__name__}, not a literal")
