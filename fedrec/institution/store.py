"""An institution's interactions on disk: Arrow files that are mapped into memory, one folder per version.

    DIR/state/store/current                  the version in use, replaced atomically
    DIR/state/store/<version>/rows.arrow     user, item, rating, time in the order of core.Interactions
    DIR/state/store/<version>/users.arrow    raw user id by index; never read by a job
    DIR/state/store/<version>/report.json    what the last intake of this version counted
    DIR/state/store/<version>/users_features.arrow, items_features.arrow   by index, where the schema keeps any

The version is a hash of the content, so the same rows are stored once and old versions stay readable.
Needs pyarrow and numpy only: a job in the jail reads rows through `read_rows` and nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fedrec.core.features import Features, from_values
from fedrec.core.interactions import Interactions
from fedrec.errors import DataError
from fedrec.institution.trouble import PASSING, refusal_of

_TYPES = {"user": pa.int32(), "item": pa.int32(), "rating": pa.float32(), "time": pa.int64()}
_DTYPES = {pa.int32(): np.int32, pa.float32(): np.float32, pa.int64(): np.int64}


@dataclass(frozen=True, slots=True)
class Store:
    """One version of an institution's rows. Opening it reads the header, not the rows."""

    folder: Path
    version: str
    n_rows: int
    n_users: int
    n_items: int
    has_time: bool

    @classmethod
    def open(cls, state: Path, version: str | None = None) -> Store:
        """The version in use, or a named one, below the institution's `state` folder.

        Raises:
            DataError: nothing was taken in yet, there is no such version, or its file is damaged.
        """
        base = state / "store"
        if version is None:
            try:
                version = (base / "current").read_text(encoding="ascii").strip()
            except FileNotFoundError:
                raise DataError("no data has been taken in yet") from None
        if not re.fullmatch(r"[0-9a-f]{16}", version) or not (base / version).is_dir():
            raise DataError("there is no such version of the data")
        columns, head = _open(base / version / "rows.arrow")
        if head.version != version:
            raise DataError("the stored rows do not belong to their version")
        has_time = len(columns) == len(_TYPES)
        return cls(base / version, version, len(columns[0]), head.n_users, head.n_items, has_time)

    @property
    def rows_path(self) -> Path:
        return self.folder / "rows.arrow"

    def rows(self) -> Interactions:
        """All rows; pages of the file are read when they are touched."""
        return read_rows(self.rows_path)

    def user_ids(self) -> list[str]:
        """Raw user ids by index. They stay inside the institution."""
        with pa.memory_map(str(self.folder / "users.arrow")) as file:
            ids: list[str] = pa.ipc.open_file(file).get_batch(0).column(0).to_pylist()
        return ids

    def features_path(self, of: str) -> Path:
        """Where those of "users" or "items" lie, if the schema keeps any."""
        return self.folder / f"{of}_features.arrow"

    def features(self, of: Literal["users", "items"]) -> pa.Table | None:
        """What is known about users or items, by index; None where the schema keeps nothing."""
        path = self.features_path(of)
        if not path.exists():
            return None
        with pa.memory_map(str(path)) as file:
            return pa.ipc.open_file(file).read_all()

    def quality(self) -> float:
        """The data-quality score of the last intake; a share."""
        return float(self.report()["quality"]["score"])

    def report(self) -> dict[str, Any]:
        """What the last intake of this version counted."""
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return found


def read_rows(source: Path | pa.Buffer) -> Interactions:
    """The rows of one version as numpy views of the file: nothing is copied, and nothing can be written.

    Args:
        source: rows.arrow, or a buffer over it for a job that only gets an open file descriptor.

    Raises:
        DataError: this is not a rows file of fedrec, or it is damaged.
    """
    columns, head = _open(source)
    arrays = [np.frombuffer(c.buffers()[1], dtype=_DTYPES[c.type], count=len(c)) for c in columns]
    user, item, rating = arrays[:3]
    time = arrays[3] if len(arrays) == len(_TYPES) else None
    return Interactions(user, item, rating, time, head.n_users, head.n_items)


def read_features(source: pa.Buffer | pa.Table) -> Features:
    """Features as models read them, from a features file or from what `features.collect` made."""
    table = source if isinstance(source, pa.Table) else pa.ipc.open_file(pa.BufferReader(source)).read_all()
    return from_values(table.to_pydict(), table.num_rows)


class _Head(NamedTuple):
    n_users: int
    n_items: int
    version: str


def _open(source: Path | pa.Buffer) -> tuple[list[pa.Array], _Head]:
    """The columns and the metadata of a rows file, with its form checked."""
    try:
        file = pa.BufferReader(source) if isinstance(source, pa.Buffer) else pa.memory_map(str(source))
        reader = pa.ipc.open_file(file)
        batch = reader.get_batch(0)
        batch.validate()
        meta = reader.schema.metadata
        head = _Head(int(meta[b"n_users"]), int(meta[b"n_items"]), meta[b"version"].decode())
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        if refusal_of(error).code in PASSING:  # not the file's fault
            raise
        raise DataError(f"the stored rows cannot be read ({type(error).__name__})") from None
    fields = [(field.name, field.type) for field in reader.schema]
    expected = list(_TYPES.items())
    columns = list(batch.columns)
    whole = reader.num_record_batches == 1 and len(batch) > 0 and all(c.null_count == 0 for c in columns)
    if fields not in (expected, expected[:3]) or not whole:
        raise DataError("the stored rows have another form than this fedrec writes")
    return columns, head


def content_version(
    rows: Interactions,
    user_ids: Sequence[str],
    catalogue: Sequence[str],
    features: Mapping[str, pa.Table] | None = None,
) -> str:
    """16 hex digits over everything that a job could see or an index could mean; the same on every machine."""
    digest = hashlib.sha256(b"fedrec-rows-v1")
    for column, kind in ((rows.user, "<i4"), (rows.item, "<i4"), (rows.rating, "<f4"), (rows.time, "<i8")):
        data = b"" if column is None else np.ascontiguousarray(column, dtype=kind).tobytes()
        digest.update(f"\n{kind} {len(data)} {column is None}\n".encode())
        digest.update(data)
    for ids in (user_ids, catalogue):
        digest.update(json.dumps(list(ids), ensure_ascii=True, separators=(",", ":")).encode())
    for of, table in sorted((features or {}).items()):
        digest.update(json.dumps([of, table.to_pydict()], ensure_ascii=True, separators=(",", ":")).encode())
    return digest.hexdigest()[:16]


def save(
    state: Path,
    version: str,
    rows: Interactions,
    user_ids: Sequence[str],
    report: Mapping[str, Any],
    features: Mapping[str, pa.Table] | None = None,
    use: bool = True,
) -> None:
    """Write one version (`content_version` of the same content) and, with `use`, make it the current one.

    Of a version that is there only the report is written again. A crash leaves either the old or the new
    pointer, and never a version with a file missing.

    Args:
        features: tables by "users" or "items", one row for each index.
    """
    base = state / "store"
    for folder in (state, base):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    base.chmod(0o700)
    with _alone(base):
        for rest in base.glob(".new-*"):  # of an intake that was killed; nobody else is writing now
            shutil.rmtree(rest)
        if not (base / version).exists():
            fresh = base / f".new-{version}"
            _fill(fresh, version, rows, user_ids, features or {})
            _write_report(fresh, report)
            _sync(fresh)
            fresh.rename(base / version)
            _sync(base)
        else:
            _write_report(base / version, report)
        if not use:
            return
        _write(base / ".current", lambda file: file.write(f"{version}\n".encode()))
        (base / ".current").replace(base / "current")
        _sync(base)


def versions(state: Path) -> set[str]:
    """The names of all versions."""
    return {path.name for path in (state / "store").glob("*") if re.fullmatch(r"[0-9a-f]{16}", path.name)}


def drop(state: Path, version: str) -> None:
    """Delete one version. A kill in the middle leaves no half version.

    Raises:
        DataError: it is the one in use.
    """
    base = state / "store"
    with _alone(base):
        if (base / "current").read_text(encoding="ascii").strip() == version:
            raise DataError("this version of the data is in use")
        (base / version).rename(base / f".new-{version}")
        shutil.rmtree(base / f".new-{version}")


def _fill(
    folder: Path, version: str, rows: Interactions, user_ids: Sequence[str], features: Mapping[str, pa.Table]
) -> None:
    """The files of a version in a new folder, but for the report."""
    folder.mkdir(mode=0o700)
    columns: dict[str, NDArray[Any]] = {"user": rows.user, "item": rows.item, "rating": rows.rating}
    if rows.time is not None:
        columns["time"] = rows.time
    meta = {"n_users": str(rows.n_users), "n_items": str(rows.n_items), "version": version}
    schema = pa.schema([(name, _TYPES[name]) for name in columns], metadata=meta)
    arrays = [pa.array(np.ascontiguousarray(column), _TYPES[name]) for name, column in columns.items()]
    _write(folder / "rows.arrow", lambda file: _write_batch(file, pa.record_batch(arrays, schema=schema)))
    users = pa.record_batch([pa.array(user_ids, pa.string())], schema=pa.schema([("id", pa.string())]))
    _write(folder / "users.arrow", lambda file: _write_batch(file, users))
    for of, table in features.items():
        batch = table.combine_chunks().to_batches()[0]
        _write(folder / f"{of}_features.arrow", lambda file, batch=batch: _write_batch(file, batch))  # type: ignore[misc]


def _write_report(folder: Path, report: Mapping[str, Any]) -> None:
    text = json.dumps(dict(report), indent=1, sort_keys=True) + "\n"
    _write(folder / ".report", lambda file: file.write(text.encode()))
    (folder / ".report").replace(folder / "report.json")
    _sync(folder)


def _write_batch(file: Any, batch: pa.RecordBatch) -> None:
    with pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def _write(path: Path, fill: Callable[[Any], object]) -> None:
    """A new file, 0600, on the disk when this returns."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        fill(file)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _alone(base: Path) -> Iterator[None]:
    """One writer at a time; the lock goes with the process."""
    handle = os.open(base / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
