"""The process of a site without one defence or another, started as SiteProcess starts a real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fedrec.demo.sites import SiteProcess, clean_environment

HERE = Path(__file__).parent


class WeakSite(SiteProcess):
    """As SiteProcess, but the process is weak_site.py."""

    def start(self) -> None:
        with (self.folder / "state" / "serve.log").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "weak_site.py"), str(self.folder)],
                text=True,
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=clean_environment(FEDREC_OWNER_PASSWORD=self.owner_password),
            )
