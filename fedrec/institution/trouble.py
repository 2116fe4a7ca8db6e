"""What passes: no room on the disk, no file handle, a locked ledger, a clock set back, the wrong hour, a held update.

A task that meets it is not ended: the same task, sent again when it is over, runs under what it had reserved.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path

from fedrec.errors import Refused

PASSING = frozenset(
    {"audit.write", "ledger.write", "site.disk", "site.handles", "permit.early", "permit.hours", "release.held"}
)
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO}
_HANDLES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}


def refusal_of(error: Exception) -> Refused:
    """What the outside hears of an error: a refusal as it is, of anything else the kind, never the text."""
    if isinstance(error, Refused):
        return error
    number = error.errno if isinstance(error, OSError) else None
    if number in _DISK or isinstance(error, sqlite3.OperationalError):
        return Refused("site.disk", "the site cannot use its disk", "Tell the data owner, then send it again")
    if number in _HANDLES or isinstance(error, MemoryError):
        return Refused("site.handles", "the site has no file or memory left for this", "Send it again in a minute")
    return Refused("site.error", "the site had an error of its own", "Ask the data owner to read the log")


def check_room(folder: Path, megabytes: float) -> None:
    """Refuse to begin what would fill the disk: a failure in the middle of a job cannot be told from the plan's own.

    Raises:
        Refused: `site.disk` when less than this is free.
    """
    if shutil.disk_usage(folder).free < megabytes * 10**6:
        raise Refused("site.disk", "the site has no room for a job's files", "Tell the data owner, then send it again")
