"""The lab: four datasites and JupyterLab on one machine, where one person plays every role, one notebook each."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedrec.datasets import get_ml100k, synthetic
from fedrec.demo.jupyter import Jupyter, jupyter
from fedrec.demo.sites import SCIENTIST, SiteProcess, Sites, fedrec, prepare, timed, undisturbed, write_secret
from fedrec.errors import FedrecError, Unreachable, WrongInput
from fedrec.institution.ledger import Ledger

Say = Callable[[str], None]
ROLES = {"owner": "owner of aurora", "scientist": "scientist", "auditor": "auditor of aurora"}  # kernel → its name
FIRST = "aurora"  # the institution whose owner and auditor the reader plays
AUDITOR = "auditor@aurora.example"
LOOK_S = 2.0  # how often the other owners look for new requests


class Lab:
    """A folder that holds the consortium, its accounts and JupyterLab's own files; made once, used again.

    consortium/      the institutions' folders       passwords.json   one a person, 0600
    notebooks/       copies that may be changed      roles/           what each kernel is given, 0600
    scientist/       consortium.toml and catalogue, far from any rows
    jupyter/         kernels, settings, run-time files
    """

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self.say = folder.absolute(), say

    @contextmanager
    def running(self, consortium: Path, notebooks: Path) -> Iterator[Jupyter]:
        """Start everything and give JupyterLab; end everything whatever happens.

        Raises:
            WrongInput: a folder is missing, the lab runs already, or something did not start.
        """
        if not list(notebooks.glob("*.ipynb")) or not (consortium / "consortium.toml").exists():
            raise WrongInput(f"{notebooks} or {consortium}: not found; start the lab in the folder that holds both")
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self._prepare(consortium)
        _copy_new(notebooks, self.folder / "notebooks")
        passwords = self._passwords()
        sites = Sites(self.folder / "consortium", lambda name: passwords[name])
        began = time.monotonic()
        with sites:
            self.say(f"{len(sites.all)} datasites started ({time.monotonic() - began:.1f} s)")
            sites.add_user(SCIENTIST, "scientist", passwords["scientist"])
            add_auditor(sites, passwords["auditor"])
            install(self.folder, sites, passwords["scientist"], passwords["auditor"])
            with OtherOwners(sites, self.say), jupyter(self.folder / "jupyter", self.folder / "notebooks") as started:
                yield started

    def _prepare(self, consortium: Path) -> None:
        """The institutions' folders with their rows; whole or not at all."""
        ready, fresh = self.folder / "consortium", self.folder / ".consortium"
        if ready.exists():
            return
        shutil.rmtree(fresh, ignore_errors=True)
        source = fresh / ".source"
        with timed("data dealt out to the institutions, once", self.say):
            try:
                get_ml100k(source, progress=self.say)
            except Unreachable as error:
                self.say(f"ML-100K cannot be had ({error}); going on with generated data")
                synthetic(source)
            prepare(consortium, fresh, source)
        shutil.rmtree(source)  # from now on each institution has its own rows only
        fresh.rename(ready)

    def _passwords(self) -> dict[str, str]:
        path = self.folder / "passwords.json"
        names = [*Sites(self.folder / "consortium", lambda _: "").all, "scientist", "auditor"]
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        found = {name: known.get(name) or secrets.token_urlsafe(12) for name in names}
        if found != known:  # new, or of a fedrec with fewer roles
            write_secret(path, found)
        return found


class OtherOwners:
    """The owners whom the reader does not play: each approves what arrives, in processes with his password."""

    def __init__(self, sites: Sites, say: Say) -> None:
        self._sites, self._say = [site for site in sites.all.values() if site.name != FIRST], say
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="other owners")
        self._seen: set[str] = set()

    def __enter__(self) -> OtherOwners:
        try:
            with undisturbed():
                self._thread.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            for site, ids in [(site, self._waiting(site)) for site in self._sites]:
                if ids:
                    self._approve(site, ids)

    def _approve(self, site: SiteProcess, ids: Sequence[str]) -> None:
        try:
            fedrec(
                ["requests", "approve", str(site.folder), *ids],
                FEDREC_USER=site.owner,
                FEDREC_PASSWORD=site.owner_password,
            )
            self._say(f"the owner of {site.name} approved {len(ids)} requests")
        except FedrecError as error:
            self._say(f"the owner of {site.name}: {error}")

    def _waiting(self, site: SiteProcess) -> list[str]:
        ledger = Ledger(site.folder / "state" / "ledger.sqlite")
        try:
            new = [row.id for row in ledger.requests() if row.decision == "waiting" and row.id not in self._seen]
        finally:
            ledger.close()
        self._seen.update(new)
        return new


def add_auditor(sites: Sites, password: str) -> None:
    """Make the auditor's account at the first institution, on its machine."""
    folder = str(sites.all[FIRST].folder)
    fedrec(["site", "users", "add", folder, AUDITOR, "--role", "auditor"], FEDREC_PASSWORD=password)


def install(folder: Path, sites: Sites, scientist_password: str, auditor_password: str) -> Path:
    """Write a kernel for each role: its variables, and a kernelspec that starts it with them alone.

    Returns:
        The folder for JUPYTER_PATH.
    """
    bare, first = folder / "scientist", sites.all[FIRST]
    bare.mkdir(parents=True, exist_ok=True)
    for path in (sites.consortium, sites.config.catalogue_path):
        shutil.copyfile(path, bare / path.name)
    variables = {
        "owner": {
            "FEDREC_SITE": str(first.folder),
            "FEDREC_CONSORTIUM": str(sites.consortium),
            "FEDREC_USER": first.owner,
            "FEDREC_PASSWORD": first.owner_password,
        },
        "scientist": {
            "FEDREC_CONSORTIUM": str(bare / sites.consortium.name),
            "FEDREC_USER": SCIENTIST,
            "FEDREC_PASSWORD": scientist_password,
        },
        "auditor": {
            "FEDREC_SITE": str(first.folder),
            "FEDREC_CONSORTIUM": str(sites.consortium),
            "FEDREC_USER": AUDITOR,
            "FEDREC_PASSWORD": auditor_password,
        },
    }
    (folder / "roles").mkdir(mode=0o700, exist_ok=True)
    for role, title in ROLES.items():
        own = folder / "roles" / f"{role}.json"
        write_secret(own, variables[role])
        spec = folder / "jupyter" / "kernels" / f"fedrec-{role}"
        spec.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "fedrec.demo.kernel", str(own), "-f", "{connection_file}"]
        (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": title, "language": "python"}))
    return folder / "jupyter"


def _copy_new(source: Path, target: Path) -> None:
    """Copies of the notebooks, so that outputs and changes never reach the originals; a copy that is there stays."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.glob("*.ipynb"):
        if not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)
