"""One warm jail for all tests of the institution: it takes three seconds to start."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_site import make_site

from fedrec.institution.jail import Jail
from fedrec.institution.jobs import Jobs
from fedrec.institution.site import Site


@pytest.fixture(scope="session")
def jail() -> Iterator[Jail]:
    """Level 2. A machine that cannot do it fails the tests: nothing is skipped."""
    os.environ["FEDREC_CANARY"] = "canary-environment"
    began = time.monotonic()
    made = Jail(2)
    made.wait_ready()
    print(f"\nwarm parent of the jail: {time.monotonic() - began:.1f} s")
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = make_site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def jobs(site: Site, jail: Jail) -> Iterator[Jobs]:
    made = Jobs(site, jail)
    yield made
    made.close()
