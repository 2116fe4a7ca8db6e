"""Recommendations over HTTP for the institution's own applications, which show a token; no account may have any."""

from __future__ import annotations

import hmac
import json
import os
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrec.config.secret import read_secret
from fedrec.errors import DataError, Refused, WrongInput
from fedrec.institution.ledger import Account
from fedrec.institution.noted import Noted
from fedrec.institution.recommending import Recommended, Recommender

APPLICATION = Account("application", "", "application", True)  # who the log says it was; no account of the ledger
MAX_ASKED = 64_000  # bytes of a question
MAX_ITEMS = 1000
_FORMS: dict[str, tuple[Any, type]] = {
    "user": ("", str),
    "items": ([], list),
    "about": ([], list),
    "k": (10, int),
    "where": ([], list),
    "explain": (False, bool),
}


def new_token(state: Path) -> str:
    """Make a token for the institution's applications, in place of the one before; 64 hex digits.

    It stands in `state`/keys/app.token, 0600, and counts at once.
    """
    path, token = _file(state), secrets.token_hex(32)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    fresh.replace(path)
    return token


def drop_token(state: Path) -> None:
    """From now on no application is answered."""
    _file(state).unlink(missing_ok=True)


def _file(state: Path) -> Path:
    return state / "keys" / "app.token"


class Applications:
    """Answers applications from the served model, which stays in memory until another model or other data come."""

    def __init__(self, folder: Path, noted: Noted) -> None:
        self._folder, self._noted = folder, noted
        self._lock = threading.Lock()
        self._served: Recommender | None = None
        self._stamp = ""

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Whether a call shows the token. A call signed by an account does not: the gate's table decides on it.

        Raises:
            Refused: `gate.token`, where another token is shown or the institution has none.
        """
        shown = headers.get("authorization")
        if shown is None or "x-fedrec-key" in headers:
            return False
        try:
            right = "Bearer " + read_secret(_file(self._folder / "state"), "app.token")
        except WrongInput:
            right = ""
        if not right or not hmac.compare_digest(shown.encode(), right.encode()):
            raise Refused(
                "gate.token", "this is not the token of the institution's applications", "See fedrec site token"
            )
        return True

    def answer(self, body: bytes) -> dict[str, Any]:
        """What a question gets: `how`, `known` and `items`; the log counts it before it leaves.

        Raises:
            Refused: `recommend.form`, or `audit.write`.
        """
        try:
            asked = _asked(body)
            served = self._now()
            more = (asked["k"], asked["where"], asked["explain"])
            if asked["user"]:
                found = served.for_user(asked["user"], *more)
            else:
                found = served.for_items(asked["items"], *more, asked["about"])
        except (WrongInput, DataError) as error:
            raise Refused("recommend.form", str(error), "See docs/recommending.md") from None
        self._noted.given(len(found.items))
        return _told(found)

    def _now(self) -> Recommender:
        """The served model of now, over the data of now."""
        state = self._folder / "state"
        with self._lock:
            stamp = "".join(
                path.read_text() for path in (state / "models/current", state / "store/current") if path.exists()
            )
            if self._served is None or stamp != self._stamp:
                self._served, self._stamp = Recommender(self._folder), stamp
            return self._served


def _asked(body: bytes) -> dict[str, Any]:
    """A question's fields. Raises: WrongInput."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise WrongInput("the body is one JSON object") from None
    if not isinstance(given, dict) or not set(given) <= set(_FORMS):
        raise WrongInput(f"the body is one JSON object with {', '.join(_FORMS)}")
    asked = {name: given.get(name, default) for name, (default, _) in _FORMS.items()}
    for name, (_, form) in _FORMS.items():
        if type(asked[name]) is not form:
            raise WrongInput(f"{name} is of another type")
        if form is list and not all(isinstance(one, str) for one in asked[name]):
            raise WrongInput(f"{name} is a list of texts")
    if bool(asked["user"]) == bool(asked["items"] or asked["about"]) or len(asked["items"]) > MAX_ITEMS:
        raise WrongInput(f"name a user, or 1 to {MAX_ITEMS} items, or what is known about somebody")
    return asked


def _told(found: Recommended) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{"item": item, "title": found.titles[item]} for item in found.items]
    for row, because in zip(rows, found.reasons, strict=False):  # without reasons there are none
        row["because"] = because
    return {"known": found.known, "how": found.how, "model": found.model, "items": rows}
