"""The model that an institution serves to its own users: installed by a publish task, read by `fedrec recommend`."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.errors import WrongInput
from fedrec.exchange.wire import decode
from fedrec.institution.ledger import RequestRow
from fedrec.institution.permit import Task
from fedrec.institution.store import Store

_ONE = threading.Lock()  # one installation at a time, so that none clears another's folder away


class Published:
    """The models below `state`/models, one of which `current` names."""

    def __init__(self, state: Path) -> None:
        self._state, self._folder = state, state / "models"

    def install(self, row: RequestRow, task: Task, shared: Path, lists: Path, store: Store) -> None:
        """Put a model and its users' lists in place, then point to it; a reader sees the old one or the new one."""
        with _ONE:
            self._install(row, task, shared, lists, store)

    def _install(self, row: RequestRow, task: Task, shared: Path, lists: Path, store: Store) -> None:
        target, fresh = self._folder / f"{task.base[:16]}-{task.nonce[:16]}", self._folder / f".{task.nonce}"
        before = self._folder / "current"
        old = before.read_text() if before.exists() else target.name
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700, parents=True)
        shutil.copyfile(shared, fresh / "shared.safetensors")
        os.replace(lists, fresh / "lists.safetensors")
        facts = {
            "model": task.base,
            "plan": row.fingerprint,
            "name": row.name,
            "run": task.run,
            "data_version": store.version,
        }
        (fresh / "model.json").write_text(json.dumps(facts))
        if target.exists():  # the same job, repeated after a crash: the same files
            shutil.rmtree(fresh)
        else:
            os.replace(fresh, target)
        pointer = self._folder / ".current"
        pointer.write_text(target.name)
        os.replace(pointer, before)
        for rest in self._folder.iterdir():  # the one before stays for those who read it now
            if rest.is_dir() and rest.name not in (target.name, old, fresh.name):
                shutil.rmtree(rest, ignore_errors=True)

    def current(self) -> dict[str, Any]:
        """Facts about the served model.

        Raises:
            WrongInput: no model has been published yet.
        """
        try:
            name = (self._folder / "current").read_text()
            facts: dict[str, Any] = json.loads((self._folder / name / "model.json").read_text())
        except FileNotFoundError:
            raise WrongInput("no model has been published to this institution yet") from None
        return {**facts, "folder": name}

    def recommend(self, user: str, k: int, items: Sequence[str]) -> tuple[list[str], bool]:
        """The best `k` items that the user has not touched, and whether the user is known.

        Unknown users get what is popular.

        Args:
            k: 1 to 100.
            items: the catalogue's ids.

        Raises:
            WrongInput: no model is published, or `k` is out of range.
        """
        facts = self.current()
        lists = decode((self._folder / facts["folder"] / "lists.safetensors").read_bytes())
        if not 1 <= k <= lists["popular"].shape[0]:
            raise WrongInput(f"k is a whole number from 1 to {lists['popular'].shape[0]}")
        users = Store.open(self._state, facts["data_version"]).user_ids()
        known = user in users
        best = lists["lists"][users.index(user)] if known else lists["popular"]
        return [items[int(index)] for index in np.asarray(best) if index >= 0][:k], known
