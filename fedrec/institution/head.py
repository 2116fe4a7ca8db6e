"""The first rows of an institution's data, shown to its owner at the institution's own machine, and written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedrec.config import ConsortiumConfig, SiteConfig
from fedrec.errors import WrongInput
from fedrec.institution.audit import AuditLog
from fedrec.institution.local import alone, log_of
from fedrec.institution.quality import moment
from fedrec.institution.store import Store

MOST = 1000  # rows


def head(folder: Path, count: int) -> dict[str, Any] | None:
    """The first rows of the version in use; None when a site serves the folder, which alone may write to its log.

    Raises:
        WrongInput: no data was taken in, or `count` is out of range.
        Refused: `audit.write`; nothing is shown then.
    """
    with alone(folder / "state") as free:
        if not free:
            return None
        store, log = Store.open(folder / "state"), log_of(folder)
        try:
            return head_of(log, folder, store, count)
        finally:
            log.close()


def head_of(log: AuditLog, folder: Path, store: Store, count: int) -> dict[str, Any]:
    """The first rows by user, oldest first, with raw ids; the log gets intent and outcome, and no id.

    Args:
        count: 1 to 1000.
    """
    if not 1 <= count <= MOST:
        raise WrongInput(f"the number of rows is 1 to {MOST}")
    count = min(count, store.n_rows)
    with log.act("site", "site", "head", store.version, detail={"rows": count}):
        rows, users = store.rows(), store.user_ids()
        items = ConsortiumConfig.load(SiteConfig.load(folder / "site.toml").consortium_path).item_ids()
        shown = [
            {
                "user": users[rows.user[place]],
                "item": items[rows.item[place]],
                "rating": float(rows.rating[place]),
                "time": None if rows.time is None else moment(int(rows.time[place])),
            }
            for place in range(count)
        ]
    return {"version": store.version, "rows": shown}
