"""One site of its own, which these tests may end, kill and start again; each leaves it running."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import real_sites
from real_sites import ADA_PASSWORD

import fedrec
from fedrec.demo.sites import SCIENTIST, SiteProcess, Sites

if TYPE_CHECKING:
    from fedrec.scientist.datasites import Datasites
    from fedrec.scientist.syft_client import SyftSite


@pytest.fixture(scope="session")
def solo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """A consortium of one, 300 rows of users whose ids are canaries; it keeps its port when it starts again."""
    with real_sites.lone(tmp_path_factory.mktemp("solo"), port=real_sites.free_port()) as running:
        real_sites.add_scientists(running)
        yield running


@pytest.fixture(scope="session")
def site(solo: Sites) -> SiteProcess:
    """Its process."""
    return solo.all["solo"]


@pytest.fixture(scope="session")
def alone(solo: Sites) -> Datasites:
    """The scientist's login at it; the same object over all restarts."""
    return fedrec.connect(solo.consortium, SCIENTIST, ADA_PASSWORD)


@pytest.fixture(scope="session")
def its_owner(site: SiteProcess) -> dict[str, SyftSite]:
    """The owner's login at it, by its name."""
    return {"solo": real_sites.login(site, site.owner, site.owner_password)}
