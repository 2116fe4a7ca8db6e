"""One warm jail for all tests of the institution: it takes three seconds to start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_site import make_site
from told import RUN, tell_all

from fedrec.institution.evidence.pack import pack
from fedrec.institution.jail import Jail
from fedrec.institution.jobs import Jobs
from fedrec.institution.site import Keys, Site


@pytest.fixture(scope="session")
def jail() -> Iterator[Jail]:
    """Level 2. A machine that cannot do it fails the tests: nothing is skipped."""
    os.environ["FEDREC_CANARY"] = "canary-environment"
    made = Jail(2)
    made.wait_ready()
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


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory, jail: Jail) -> list[Path]:
    """Two institutions that took part in one run; each pins both keys."""
    folders = tell_all(tmp_path_factory.mktemp("two"), jail, ["a", "b"])
    keys = {folder.name: Keys.load_or_make(folder / "state").public for folder in folders}
    text = 'name = "c"\ntitle = "C"\n' + "".join(
        f'[[member]]\nname = "{name}"\nfolder = "{name}"\nkey = "{key}"\n' for name, key in keys.items()
    )
    for folder in folders:
        (folder.parent / "consortium.toml").write_text(text)
    return folders


@pytest.fixture(scope="session")
def packs(stories: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A pack of each; tests change copies."""
    made = [tmp_path_factory.mktemp("packs") / f"{folder.name}.zip" for folder in stories]
    for path, folder in zip(made, stories, strict=True):
        path.write_bytes(pack(folder, RUN))
    return made
