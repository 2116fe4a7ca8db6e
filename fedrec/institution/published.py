"""The model that an institution serves to its own users: installed by a publish task, read by `fedrec recommend`."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.core.metrics import CUT, spread
from fedrec.core.outcomes import TINY
from fedrec.core.params import Array
from fedrec.errors import WrongInput
from fedrec.exchange.plan import PlanText
from fedrec.exchange.wire import decode
from fedrec.institution.incoming import Made
from fedrec.institution.ledger import RequestRow
from fedrec.institution.permit import Task
from fedrec.institution.store import Store
from fedrec.institution.uncompared import WORDS
from fedrec.models import OUTCOMES, RATINGS

KEPT = 5  # models
_OLDER = ("scientist", "request", "permit", "published_at")  # what a model of an older fedrec does not say
_SINCE = ("compared", "coverage@10", "gini@10")
_UNKNOWN = {"number": 0, "users": 0, **dict.fromkeys(_OLDER, ""), **dict.fromkeys(_SINCE)}
_ONE = threading.Lock()  # one installation at a time, so that none clears another's folder away


class Published:
    """The models below `state`/models, one of which `current` names."""

    def __init__(self, state: Path) -> None:
        self._state, self._folder = state, state / "models"

    def install(
        self, row: RequestRow, task: Task, shared: Path, made: Made, store: Store, permit: str = "", at: str = ""
    ) -> None:
        """Put a model and its users' lists in place, then point to it; a reader sees the old one or the new one.

        Where the institution's own model serves its users better, that is put beside it and pointed to.

        Args:
            permit: id of the permit that it is published under.
            at: the site's time.
        """
        with _ONE:
            self._install(row, task, shared, made, store, permit, at)

    def _install(
        self, row: RequestRow, task: Task, shared: Path, made: Made, store: Store, permit: str, at: str
    ) -> None:
        target = self._folder / f"{task.base[:16]}-{task.nonce[:16]}"
        known, plan = [one for one in self.versions() if one["folder"] != target.name], PlanText.parse(row.plan)
        facts: dict[str, Any] = {
            "model": task.base,
            "plan": row.fingerprint,
            "name": row.name,
            "table": {"name": "own"} if plan.model["name"] == "own" else plan.model,  # code runs in the jail only
            "protocol": task.protocol,
            "seed": plan.seed,
            "run": task.run,
            "data_version": store.version,
            "items": store.n_items,
            "scientist": row.scientist,
            "request": row.id,
            "permit": permit,
            "published_at": at,
            "number": 1 + max((int(one["number"]) for one in known), default=0),
            "compared": None if made.ndcg is None else {"shared": made.ndcg[0], "own": made.ndcg[1]},
            "not_compared": made.why,
        }
        self._put(target, facts, shared, made.lists)
        if made.own is not None:
            target = self._folder / f"{task.base[:16]}-{task.nonce[16:32]}"
            more = {"personal": "local", "number": facts["number"] + 1}
            self._put(target, {**facts, **more}, made.own[0], made.own[1])
        self._point(target.name)
        keep = {one["folder"] for one in self.versions()[-KEPT:]} | set(self._history()[:2])
        for rest in self._folder.iterdir():  # the one before stays for those who read it now, and for a rollback
            if rest.is_dir() and rest.name not in keep:
                shutil.rmtree(rest, ignore_errors=True)

    def _put(self, target: Path, facts: Mapping[str, Any], shared: Path | bytes, lists: bytes) -> None:
        """A model's folder, there whole or not at all; after a crash the same job brings the same files again."""
        fresh = self._folder / f".{target.name}"
        shutil.rmtree(fresh, ignore_errors=True)  # of a crash or a full disk
        fresh.mkdir(mode=0o700, parents=True)
        if isinstance(shared, bytes):
            (fresh / "shared.safetensors").write_bytes(shared)
        else:
            shutil.copyfile(shared, fresh / "shared.safetensors")
        (fresh / "lists.safetensors").write_bytes(lists)
        (fresh / "model.json").write_text(json.dumps({**facts, **_of_lists(lists, facts["items"])}))
        if target.exists():
            shutil.rmtree(fresh)
        else:
            os.replace(fresh, target)

    def add(self, facts: Mapping[str, Any], shared: bytes, lists: bytes) -> int:
        """Keep a model that was made here from a published one, without serving it; its number.

        Args:
            facts: those of the published one with `items`, the catalogue's length, and what was done to it.
        """
        with _ONE:
            number = 1 + max((int(one["number"]) for one in self.versions()), default=0)
            target = self._folder / f"{facts['model'][:16]}-{secrets.token_hex(8)}"
            self._put(target, {**facts, "number": number}, shared, lists)
        return number

    def versions(self) -> list[dict[str, Any]]:
        """All models that are kept, oldest first; `served` says which one users get."""
        history, found = self._history(), []
        for path in self._folder.glob("[!.]*/model.json"):
            facts = {**_UNKNOWN, **json.loads(path.read_text()), "folder": path.parent.name}
            found.append({**facts, "served": history[:1] == [path.parent.name]})
        return sorted(found, key=lambda facts: (facts["number"], facts["folder"]))

    def find(self, version: str) -> dict[str, Any]:
        """A model that is kept.

        Args:
            version: its number, or six or more first digits of its name.

        Raises:
            WrongInput: there is none, or more than one.
        """
        known = self.versions()
        found = [one for one in known if version == str(one["number"])] or [
            one for one in known if len(version) >= 6 and one["folder"].startswith(version)
        ]
        if len(found) != 1:
            raise WrongInput(f"{version}: give the number of a model that fedrec site models list shows")
        return found[0]

    def earlier(self) -> dict[str, Any]:
        """What was served before. Raises: WrongInput: nothing was, or it is no longer kept."""
        kept = {one["folder"]: one for one in self.versions()}
        before = [name for name in self._history()[1:] if name in kept]
        if not before:
            raise WrongInput("no earlier model is kept")
        return kept[before[0]]

    def use(self, version: str) -> dict[str, Any]:
        """Serve another model that is kept. Raises: as `find`."""
        with _ONE:
            chosen = self.find(version)
            self._point(chosen["folder"])
            return {**chosen, "served": True}

    def rollback(self) -> dict[str, Any]:
        """Serve again what was served before. Raises: as `earlier`."""
        with _ONE:
            chosen = self.earlier()
            self._point(chosen["folder"], back=True)
            return {**chosen, "served": True}

    def _history(self) -> list[str]:
        """Folders that were served, the one that is first."""
        try:
            return (self._folder / "current").read_text().split()
        except FileNotFoundError:
            return []

    def _point(self, name: str, back: bool = False) -> None:
        """Serve a folder from now on; a reader sees the old one or the new one, also over a crash."""
        past = [one for one in self._history() if one != name]
        if back:  # what was rolled back is not what a second rollback returns to
            past = past[1:]
        pointer = self._folder / ".current"
        with pointer.open("w") as file:
            file.write("\n".join([name, *past[: KEPT - 1]]))
            file.flush()
            os.fsync(file.fileno())
        os.replace(pointer, self._folder / "current")

    def current(self) -> dict[str, Any]:
        """Facts about the served model.

        Raises:
            WrongInput: no model has been published yet.
        """
        try:
            name = (self._folder / "current").read_text().split()[0]
            facts: dict[str, Any] = json.loads((self._folder / name / "model.json").read_text())
        except (FileNotFoundError, IndexError):
            raise WrongInput("no model has been published to this institution yet") from None
        return {**facts, "folder": name}

    def served(self) -> tuple[dict[str, Any], dict[str, Array], dict[str, Array]]:
        """(facts, shared parameters, lists) of the served model: `lists` by user of its data version, and `popular`.

        Raises:
            WrongInput: no model has been published yet.
        """
        facts = self.current()
        folder = self._folder / facts["folder"]
        shared, lists = ((folder / f"{name}.safetensors").read_bytes() for name in ("shared", "lists"))
        return facts, decode(shared), decode(lists)


def _of_lists(lists: bytes, n_items: int) -> dict[str, Any]:
    """For how many users there are lists, and how their first ten spread over the catalogue."""
    made = decode(lists)["lists"]
    best = made[:, :CUT]
    times = np.bincount(best[best >= 0], minlength=n_items)
    return {"users": int((made >= 0).any(axis=1).sum()), **spread(times)}


def said_of(facts: Mapping[str, Any]) -> str:
    """What the owner reads of a model besides who published it: what was compared, and how its lists spread."""
    words = []
    if facts.get("personal"):
        words.append("the institution's own" if facts["personal"] == "local" else facts["personal"])
    if facts["compared"] is not None:
        name, both = (facts.get("table") or {}).get("name"), facts["compared"]
        what = "1 - squared error / width²" if name in RATINGS else "NDCG@10"
        if name in OUTCOMES:
            what, both = "log-loss", {scope: -math.log(max(value, TINY)) for scope, value in both.items()}
        words.append(f"validation {what}: " + "shared {shared:.4f}, own {own:.4f}".format(**both))
    else:
        why = WORDS.get(facts.get("not_compared", ""))
        words.append("not compared with an own one" + (f": {why}" if why else ""))
    if facts["coverage@10"] is not None:
        words.append(f"lists: coverage {facts['coverage@10']:.0%}, Gini {facts['gini@10']:.2f}")
    return "; ".join(words)
