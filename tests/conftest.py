"""One set of four real datasites for every test that is marked `sites`, and logins to them.

PySyft is loaded when the first such test runs, never when tests are collected. Helpers: real_sites.py.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import real_sites
from real_sites import ADA_PASSWORD, BOB, BOB_PASSWORD, owner_password
from xdist.scheduler import LoadScopeScheduling

from fedrec.demo.sites import SCIENTIST, SiteProcess, Sites, prepare

if TYPE_CHECKING:
    from fedrec.scientist.datasites import Datasites
    from fedrec.scientist.syft_client import SyftSite

ROOT = Path(__file__).parents[1]
LONG = {
    "test_demo",
    "test_notebooks",
    "test_canaries",
    "test_run_every",
    "test_demo_of_a_world",
    "test_demo_of_other_worlds",
}


def pytest_configure() -> None:
    """As in a terminal: a shell's background job, and nohup, have these ignored, and programs under test inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class ByFile(LoadScopeScheduling):
    """A worker takes a whole file; one takes all that fill a machine with a job's processes, of which each user has few."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "jails" if "jail" in file or "requests_and_permits" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """How `make test` deals the tests to its two workers."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes begins first, so that no worker of `make test` has it left at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session")
def ml100k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ML-100K's ratings.csv and items.csv."""
    from fedrec.datasets import get_ml100k

    folder = tmp_path_factory.mktemp("ml100k")
    get_ml100k(folder)
    return folder


@pytest.fixture(scope="session")
def sites(ml100k: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """The four institutions of domains/movies, each a process; accounts of two scientists at each."""
    work = tmp_path_factory.mktemp("sites") / "movies"
    prepare(ROOT / "domains" / "movies", work, ml100k)
    with Sites(work, owner_password) as running:
        real_sites.add_scientists(running)
        yield running


@pytest.fixture(scope="session")
def federation(sites: Sites) -> Datasites:
    """The scientist's login at all four sites."""
    import fedrec

    return fedrec.connect(sites.consortium, SCIENTIST, ADA_PASSWORD)


@pytest.fixture(scope="session")
def bob(sites: Sites) -> SyftSite:
    """Another scientist's login at aurora."""
    return real_sites.login(sites.all["aurora"], BOB, BOB_PASSWORD)


@pytest.fixture(scope="session")
def owners(sites: Sites) -> dict[str, SyftSite]:
    """Each owner's login at his own site."""
    return {name: real_sites.login(site, site.owner, site.owner_password) for name, site in sites.all.items()}


@pytest.fixture(scope="session")
def aurora(sites: Sites) -> SiteProcess:
    """The first site's process."""
    return sites.all["aurora"]


@pytest.fixture(scope="session")
def plain(aurora: SiteProcess) -> Callable[[str, str], Any]:
    """A login at aurora with nothing but PySyft: plain(email, password)."""
    made: dict[str, Any] = {}

    def login(email: str, password: str) -> Any:
        import syft as sy

        if email not in made:
            host, _, port = aurora.url.rpartition(":")
            made[email] = sy.login(url=host, port=int(port), email=email, password=password)
        return made[email]

    return login
