"""Recommendations for all users of an institution at once, as a Parquet file for its own applications."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fedrec.errors import WrongInput
from fedrec.institution.local import local_act
from fedrec.institution.published import Published
from fedrec.institution.recommending import Recommender

BLOCK = 10_000  # users held in memory
_SCHEMA = pa.schema([("user", pa.string()), ("rank", pa.int32()), ("item", pa.string()), ("how", pa.string())])


def export(folder: Path, target: Path, k: int = 10, where: Sequence[str] = ()) -> dict[str, int]:
    """Write the best `k` items of every user of `folder`: one row for each user and item, by user and rank.

    The file is there whole or not at all, readable by its owner only, and says in its metadata which model it is of.

    Returns:
        How many users and rows.

    Raises:
        WrongInput: no model is published, an argument is wrong, or the file cannot be written.
    """
    with local_act(folder, "recommend", Published(folder / "state").current()["model"]) as facts:
        served, users, items = Recommender(folder), 0, 0
        fresh = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                schema = _SCHEMA.with_metadata({"model": served.facts["model"], "data_version": served.store.version})
                with pq.ParquetWriter(file, schema) as writer:
                    for block in _blocks(served, k, where):
                        writer.write_batch(pa.record_batch(block, schema=schema))
                        items += len(block[0])
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(target)
        except OSError as error:
            raise WrongInput(f"{target}: cannot be written ({error.strerror or error})") from None
        finally:
            fresh.unlink(missing_ok=True)
        users = len(served.users)
        facts.update(users=users, items=items, known=True)
    return {"users": users, "rows": items}


def _blocks(served: Recommender, k: int, where: Sequence[str]) -> Iterator[list[pa.Array]]:
    """The columns for BLOCK users after the other."""
    for low in range(0, len(served.users), BLOCK):
        users: list[str] = []
        ranks: list[int] = []
        items: list[str] = []
        hows: list[str] = []
        for user in served.users[low : low + BLOCK]:
            found = served.for_user(user, k, where)
            users += [user] * len(found.items)
            ranks += range(1, len(found.items) + 1)
            items += found.items
            hows += [found.how] * len(found.items)
        yield [pa.array(column, field.type) for column, field in zip((users, ranks, items, hows), _SCHEMA, strict=True)]
