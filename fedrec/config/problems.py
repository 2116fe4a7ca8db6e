"""Reading a TOML file, and saying in plain words what is wrong with it. Knows no settings and no pydantic."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from fedrec.errors import ConfigError

_KINDS = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a table",
    "model": "a table",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def read(path: Path) -> dict[str, Any]:
    """The file as nested dicts.

    Raises:
        ConfigError: the file is missing, unreadable, not UTF-8, or not TOML (with the line).
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(str(path), ["there is no such file"]) from None
    except UnicodeDecodeError:
        raise ConfigError(str(path), ["is not UTF-8 text"]) from None
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read ({error.strerror})"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), [f"is not valid TOML: {error}"]) from None


def dotted(place: Iterable[str | int]) -> str:
    """('member', 1, 'name') as member[2].name: lists count from 1, as a reader does."""
    text = ""
    for part in place:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def sentence(problem: Mapping[str, Any], known: Collection[str]) -> str:
    """One problem of a check as 'key: what is wrong'; `known` are the keys allowed where it was found."""
    key, kind = dotted(problem["loc"]), str(problem["type"])
    context = problem.get("ctx", {})
    if kind == "missing":
        return f"{key}: is missing"
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
        return f"{key}: is not a known key" + (f"; did you mean {near[0]}?" if near else f"; known: {_list(known)}")
    if kind == "value_error":
        return f"{key}: {context['error']}"
    if kind == "literal_error":
        return f"{key}: must be {context['expected']}, not {_short(problem['input'])}"
    if kind in _BOUNDS:
        words, limit = _BOUNDS[kind]
        return f"{key}: must be {words} {context[limit]:g}, not {_short(problem['input'])}"
    if kind == "finite_number":
        return f"{key}: must be a finite number"
    if kind == "too_short":
        return f"{key}: must have at least {context['min_length']}"
    for start, words in _KINDS.items():
        if kind.startswith(f"{start}_"):
            return f"{key}: must be {words}, not {_short(problem['input'])}"
    return f"{key}: {str(problem['msg'])[:1].lower()}{str(problem['msg'])[1:]}"


def _list(known: Collection[str]) -> str:
    return ", ".join(sorted(known)) or "none"


def _short(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str | int | float) else f"a {_kind(value)}"
    return text if len(text) <= 40 else text[:37] + "..."


def _kind(value: object) -> str:
    return "table" if isinstance(value, dict) else "list" if isinstance(value, list) else type(value).__name__
