"""One plan's requests at all sites, and waiting until their owners have decided."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedrec.errors import Refused
from fedrec.scientist.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

    from fedrec.scientist.datasites import Datasites

POLL_S = 1.0  # how often waiting for owners looks again; seconds


@dataclass
class Requests:
    """One plan's requests at all sites."""

    federation: Datasites
    plan: Plan
    ids: dict[str, str]

    def status(self) -> pd.DataFrame:
        """What each owner has decided so far; one row per site."""
        import pandas as pd

        return pd.DataFrame([{"site": site, **facts} for site, facts in self.federation.requests_of(self.plan).items()])

    def wait(
        self, seconds: float = 3600.0, show: Callable[[pd.DataFrame], object] | None = None, require: str | None = None
    ) -> pd.DataFrame:
        """Return when every owner has decided; shows the table whenever it changes.

        Args:
            require: "approved" to refuse when any owner decided otherwise.

        Raises:
            Refused: `permit.missing` when time is up, `permit.denied` when `require` is not met.
        """
        show = show or _shown()
        deadline, before = time.monotonic() + seconds, None
        while True:
            table = self.status()
            if before is None or not table.equals(before):
                show(table)
                before = table
            if not (table["status"] == "waiting").any():
                if require is not None and (no := table[table["status"] != require]).size:
                    who = ", ".join(f"{row.site} ({row.status})" for row in no.itertuples())
                    raise Refused(
                        "permit.denied", f"not every institution takes part: {who}", "Ask the owners, or leave them out"
                    )
                return table
            if time.monotonic() > deadline:
                raise Refused("permit.missing", "not every owner has decided yet", "Ask them, or call wait() again")
            time.sleep(POLL_S)


def _shown() -> Callable[[pd.DataFrame], object]:
    from fedrec.scientist.progress import show_table

    return show_table
