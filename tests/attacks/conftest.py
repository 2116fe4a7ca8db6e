"""Where attacks are tried: a real site, the same site with one defence off, and PySyft with no defence at all."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import real_sites
from nacl.signing import SigningKey
from people import PEOPLE, People, made
from real_sites import ADA_PASSWORD, BOB, BOB_PASSWORD
from weak_process import WeakSite

from fedrec.demo.sites import SCIENTIST, SiteProcess, Sites, clean_environment
from fedrec.institution.serve import control

if TYPE_CHECKING:
    from fedrec.scientist.syft_client import SyftSite

HERE = Path(__file__).parent


@dataclass
class Arena:
    """A running site and logins to it; `defended` is False when the defence in question is off."""

    site: SiteProcess
    ada: SyftSite
    bob: SyftSite
    owner: SyftSite
    n_items: int
    defended: bool

    @property
    def url(self) -> str:
        return self.site.url

    def outcome(self, act: str) -> str:
        """The outcome of the newest event of an act in the audit log."""
        return str(real_sites.events(self.site, act=act)[-1]["outcome"])


def logins(site: SiteProcess, n_items: int, defended: bool) -> Arena:
    ada, bob = real_sites.login(site, SCIENTIST, ADA_PASSWORD), real_sites.login(site, BOB, BOB_PASSWORD)
    return Arena(site, ada, bob, real_sites.login(site, site.owner, site.owner_password), n_items, defended)


@pytest.fixture(scope="session")
def strong(sites: Sites) -> Arena:
    """Aurora, as the product serves it."""
    return logins(sites.all["aurora"], len(sites.config.item_ids()), True)


@pytest.fixture(scope="session")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """A small site of its own, in which a test can take defences away."""
    made = real_sites.lone(tmp_path_factory.mktemp("weak"))
    plain = made.all["solo"]
    made.all["solo"] = WeakSite(plain.name, plain.folder, plain.owner, plain.owner_password)
    with made as running:
        real_sites.add_scientists(running)
        yield logins(running.all["solo"], len(running.config.item_ids()), False)


@pytest.fixture
def arena(request: pytest.FixtureRequest) -> Iterator[Callable[..., Arena]]:
    """arena(defence, "replay"): the real site, or the weak one without what is named."""
    used: list[Path] = []

    def choose(defence: bool, *without: str) -> Arena:
        if defence:
            strong: Arena = request.getfixturevalue("strong")
            return strong
        weak: Arena = request.getfixturevalue("weak")
        used.append(weak.site.folder / "state" / "without")
        used[-1].write_text(" ".join(without))
        return weak

    yield choose
    for file in used:
        file.write_text("")


@dataclass
class Bare:
    """PySyft's own server, with its root's client."""

    url: str
    pid: int
    root: Any

    def login(self, email: str, password: str) -> Any:
        import syft as sy

        host, _, port = self.url.rpartition(":")
        return sy.login(url=host, port=int(port), email=email, password=password)


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    """PySyft without fedrec: an owner, a scientist and a dataset, as a site has them."""
    import pandas as pd
    import requests
    import syft as sy
    from syft.service.user.user_roles import ServiceRole

    port, password = real_sites.free_port(), secrets.token_urlsafe(16)
    process = subprocess.Popen(
        [sys.executable, str(HERE / "bare_pysyft.py"), str(tmp_path_factory.mktemp("bare")), str(port), password],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
    )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 90
        while True:
            try:
                requests.get(f"{url}/api/v2/metadata", timeout=2).raise_for_status()
                break
            except requests.RequestException:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        made = Bare(url, process.pid, None)
        made.root = made.login("root@bare.example", password)
        for email, role in (("owner@bare.example", ServiceRole.DATA_OWNER), (SCIENTIST, ServiceRole.DATA_SCIENTIST)):
            made.root.users.create(
                name="x", email=email, password=ADA_PASSWORD, password_verify=ADA_PASSWORD, role=role
            )
        rows = pd.DataFrame({"user": ["u1"], "item": ["i1"]})
        dataset = sy.Dataset(name="bare", description="card")
        dataset.add_asset(sy.Asset(name="interactions", data=rows, mock=rows, mock_is_real=False))
        made.root.upload_dataset(dataset)
        yield made
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def people(strong: Any, sites: Any) -> Iterator[People]:
    """One person of each role at aurora, live and disabled; nobody of them stays."""
    import syft as sy

    site, tag = strong.site, secrets.token_hex(4)
    live, disabled, cookies = {}, {}, {}
    for person, role in PEOPLE.items():
        if role == "anonymous":
            live[person] = disabled[person] = SigningKey.generate()
            continue
        live[person], cookies[person] = made(site, f"{person}-{tag}@x.example", role)
        email = f"gone-{person}-{tag}@x.example"
        disabled[person], cookies[f"gone {person}"] = made(site, email, role)
        control(site.folder, {"op": "users.disable", "email": email})
    (dataset,) = strong.ada.client.datasets
    known = {"asset": dataset.assets[0].action_id, "new": sy.UID()}
    yield People(site.url, strong.ada.uid, live, disabled, cookies, known, sites.all["borealis"].facts["uid"])
    for person, role in PEOPLE.items():
        if role != "anonymous":
            control(site.folder, {"op": "users.disable", "email": f"{person}-{tag}@x.example"})
