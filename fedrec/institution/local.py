"""What a person does at the institution's own machine, as an act in its site's log, whether the site runs or not.

Only one process may write to a log: the site while it runs, which is asked through its control socket; else this
one, for as long as it holds the folder. Who may read the files can do
so past this: the event is what honest use leaves.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrec.config import SiteConfig
from fedrec.errors import WrongInput
from fedrec.institution.acts import acting
from fedrec.institution.audit import AuditLog, Detail
from fedrec.institution.intake import IntakeReport, take_in_folder
from fedrec.institution.site import Keys

ACTS = frozenset(  # what the control socket writes for a command
    {"catalogue", "data.take", "export", "key", "mock.noise", "personalise", "recommend", "replay", "token", "view"}
)
LOCAL = ("site", "operator")  # actor and role of such acts: at the machine nobody logs in
WAIT_S = 20.0  # for a site that starts, or other commands
Write = Callable[..., int]


def log_of(folder: Path) -> AuditLog:
    """A site's log, for who holds its folder.

    Raises:
        Refused: `audit.tampered`.
    """
    name = SiteConfig.load(folder / "site.toml").name
    return AuditLog(folder / "state" / "audit", Keys.load_or_make(folder / "state").signer(name))


@contextmanager
def own_log(folder: Path) -> Iterator[AuditLog | None]:
    """The log of a site that does not run, to be added to; None while it runs, since it alone may write then."""
    with alone(folder / "state") as free:
        if not free:
            yield None
            return
        log = log_of(folder)
        try:
            yield log
        finally:
            log.close()


@contextmanager
def local_act(
    folder: Path, act: str, thing: str, request: str = "", run: str = "", detail: Detail | None = None
) -> Iterator[dict[str, Any]]:
    """One of ACTS, with intent and outcome; yields what the outcome says more.

    Raises:
        Refused: `audit.write`; the act must not happen then.
        WrongInput: the folder is busy and nobody answers.
    """
    ids: dict[str, Any] = {"request": request, "run": run, "detail": detail or {}}
    with writer(folder) as write, acting(write, *LOCAL, act, thing, **ids) as facts:
        yield facts


@contextmanager
def writer(folder: Path) -> Iterator[Write]:
    """What writes an event of ACTS into the log of the site in `folder`."""
    from fedrec.institution.serve import control

    try:
        (folder / "state").mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise WrongInput(f"{folder}: cannot be written to ({error.strerror}); see fedrec site check") from None
    deadline = time.monotonic() + WAIT_S
    while True:
        with alone(folder / "state") as free:
            if free:
                log = log_of(folder)
                try:
                    yield log.event
                finally:
                    log.close()
                return
        try:
            control(folder, {"op": "status"})
            break
        except WrongInput:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)

    def ask(actor: str, role: str, act: str, thing: str, **event: Any) -> int:  # noqa: ARG001  the site knows who
        return int(control(folder, {"op": "act", "act": act, "thing": thing, **event})["number"])

    yield ask


def take_in(folder: Path, write: Write) -> IntakeReport:
    """Take in the institution's data; the log says which version it gave, and how many rows were kept and rejected."""
    with acting(write, *LOCAL, "data.take", "source") as facts:
        report = take_in_folder(folder)
        facts.update(version=report.version, before=report.previous or "", rows=report.rows_kept)
        facts.update(rejected=sum(report.rejected.values()), users=report.users, items=report.items)
    return report


@contextmanager
def alone(state: Path) -> Iterator[bool]:
    """Whether the folder is ours; while it is, no site starts in it."""
    if not state.is_dir():
        raise WrongInput("no data has been taken in yet; see fedrec site check")
    handle = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(handle)
