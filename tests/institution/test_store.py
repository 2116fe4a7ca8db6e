"""The store: versions by content, atomic changes, rows without a copy."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fedrec.core.interactions import Interactions
from fedrec.errors import DataError
from fedrec.institution.index import index_frame
from fedrec.institution.store import Store, content_version, read_rows, save

CATALOGUE = ("a", "b", "c")


def indexed(rows: list[tuple[str, str, float, int]], time: bool = True) -> tuple[Interactions, list[str]]:
    frame = pd.DataFrame(rows, columns=["user", "item", "rating", "timestamp"])
    found = index_frame(frame, CATALOGUE, time="timestamp" if time else None)
    return found.rows, found.user_ids


ROWS = [("u", "a", 3.0, 10), ("v", "c", 4.0, 5), ("u", "b", 5.0, 20)]


def saved(state: Path, rows: list[tuple[str, str, float, int]] = ROWS, time: bool = True) -> str:
    values, ids = indexed(rows, time)
    version = content_version(values, ids, CATALOGUE)
    save(state, version, values, ids, {"rows_in": len(rows)})
    return version


@pytest.mark.parametrize("time", [True, False])
def test_what_was_saved_is_read_again(tmp_path, time):
    version = saved(tmp_path, time=time)
    store = Store.open(tmp_path)
    assert (store.version, store.n_rows, store.n_users, store.n_items, store.has_time) == (version, 3, 2, 3, time)
    assert store.user_ids() == ["u", "v"]
    assert store.report() == {"rows_in": 3}
    rows = store.rows()
    assert rows.user.tolist() == [0, 0, 1]
    assert rows.item.tolist() == [0, 1, 2]
    assert rows.rating.tolist() == [3.0, 5.0, 4.0]
    assert (rows.time is not None and rows.time.tolist()) == ([10, 20, 5] if time else False)
    assert rows.matrix().toarray().tolist() == [[1, 1, 0], [0, 0, 1]]


def test_the_same_content_is_the_same_version_and_is_not_written_again(tmp_path):
    version = saved(tmp_path)
    before = (tmp_path / "store" / version / "rows.arrow").stat().st_mtime_ns
    assert saved(tmp_path, ROWS[::-1]) == version  # no tie among these times, so the order of the file is nothing
    assert (tmp_path / "store" / version / "rows.arrow").stat().st_mtime_ns == before
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == sorted([version, ".lock", "current"])


def test_any_change_of_content_is_another_version():
    values, ids = indexed(ROWS)
    versions = {
        content_version(values, ids, CATALOGUE),
        content_version(values, ["u", "w"], CATALOGUE),
        content_version(values, ids, ("b", "a", "c")),
        content_version(*indexed(ROWS, time=False), CATALOGUE),
        content_version(*indexed([*ROWS[:2], ("u", "b", 5.0, 21)]), CATALOGUE),
        content_version(*indexed([*ROWS[:2], ("u", "b", 4.0, 20)]), CATALOGUE),
        content_version(*indexed([*ROWS[:2], ("v", "b", 5.0, 20)]), CATALOGUE),
        content_version(*indexed(ROWS[:2]), CATALOGUE),
    }
    assert len(versions) == 8
    assert all(len(v) == 16 and set(v) <= set("0123456789abcdef") for v in versions)


def test_old_versions_stay_readable_by_name(tmp_path):
    old = saved(tmp_path)
    new = saved(tmp_path, ROWS[:2])
    assert (Store.open(tmp_path).version, Store.open(tmp_path).n_rows) == (new, 2)
    assert Store.open(tmp_path, old).n_rows == 3
    assert saved(tmp_path) == old  # taking in the old content again points back to it
    assert Store.open(tmp_path).version == old


def test_rows_are_views_of_the_mapped_file_and_cannot_be_written(tmp_path):
    saved(tmp_path)
    rows = Store.open(tmp_path).rows()
    for column in (rows.user, rows.item, rows.rating, rows.time):
        assert not column.flags.owndata
        assert not column.flags.writeable
    path = str(Store.open(tmp_path).rows_path)
    before = pa.total_allocated_bytes()
    again = read_rows(Path(path))
    assert pa.total_allocated_bytes() == before
    assert path in Path("/proc/self/maps").read_text() if sys.platform == "linux" else len(again) == 3


def test_a_job_reads_rows_from_an_open_descriptor_without_pandas_and_pydantic(tmp_path):
    """As the jail does: no path, no environment, only a file that is already open."""
    saved(tmp_path)
    code = """
import sys, mmap, pyarrow as pa
from fedrec.institution.store import read_rows
rows = read_rows(pa.py_buffer(mmap.mmap(int(sys.argv[1]), 0, prot=mmap.PROT_READ)))
print(rows.item.tolist(), rows.rating.flags.owndata, rows.n_users, {'pandas', 'pydantic', 'torch'} & set(sys.modules))
"""
    with Store.open(tmp_path).rows_path.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-c", code, str(file.fileno())],
            pass_fds=[file.fileno()],
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.stdout.strip(), done.stderr) == ("[0, 1, 2] False 2 set()", "")


def test_only_the_owner_of_the_process_can_read_the_store(tmp_path):
    old = os.umask(0)
    try:
        saved(tmp_path / "state")
    finally:
        os.umask(old)
    for path in [tmp_path / "state", *(tmp_path / "state").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_rest_of_a_killed_intake_is_swept_and_never_read(tmp_path):
    version = saved(tmp_path)
    rest = tmp_path / "store" / ".new-0123456789abcdef"
    rest.mkdir()
    (rest / "rows.arrow").write_bytes(b"half")
    assert Store.open(tmp_path).version == version
    saved(tmp_path, ROWS[:1])
    assert not rest.exists()


def test_killing_the_intake_at_any_moment_leaves_the_old_or_the_new_version(tmp_path):
    """SIGKILL after 0, 1, 2, … file operations of the save, until one runs to its end."""
    old, values = saved(tmp_path), indexed(ROWS[:2])
    new = content_version(*values, CATALOGUE)
    code = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_store import ROWS, saved
left = int(sys.argv[3])
def count(event, args):
    global left
    if event in ("open", "os.rename", "os.mkdir", "os.remove") and str(sys.argv[2]) in str(args):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
sys.addaudithook(count)
saved(Path(sys.argv[2]), ROWS[:2])
"""
    seen = []
    for n in range(40):
        arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path), str(n)]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        store = Store.open(tmp_path)
        assert store.n_rows == len(store.rows()) == {old: 3, new: 2}[store.version]
        assert len(store.user_ids()) == store.n_users
        seen.append(store.version)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
    assert seen == sorted(seen, key=[old, new].index)
    assert seen[-1] == new
    assert len(seen) > 5


@pytest.mark.parametrize("version", ["../../etc", "", "current", "0123456789ABCDEF", "0" * 16])
def test_a_version_that_is_none_is_refused(tmp_path, version):
    saved(tmp_path)
    with pytest.raises(DataError, match="no such version"):
        Store.open(tmp_path, version)


def test_opening_before_the_first_intake_says_so(tmp_path):
    with pytest.raises(DataError, match="no data has been taken in yet"):
        Store.open(tmp_path)


def test_rows_of_another_version_are_noticed(tmp_path):
    old, new = saved(tmp_path), saved(tmp_path, ROWS[:2])
    (tmp_path / "store" / old / "rows.arrow").replace(tmp_path / "store" / new / "rows.arrow")
    with pytest.raises(DataError, match="do not belong to their version"):
        Store.open(tmp_path)


def batch(fields: dict[str, pa.Array], meta: dict[str, str] | None = None) -> pa.RecordBatch:
    return pa.record_batch(fields).replace_schema_metadata(
        {"n_users": "1", "n_items": "1", "version": "x"} | (meta or {})
    )


GOOD = {"user": pa.array([0], pa.int32()), "item": pa.array([0], pa.int32()), "rating": pa.array([1], pa.float32())}
BAD_ROWS = {
    "wrong type": [batch(GOOD | {"item": pa.array([0], pa.int64())})],
    "a null": [batch(GOOD | {"rating": pa.array([None], pa.float32())})],
    "other columns": [batch(GOOD | {"name": pa.array(["x"])})],
    "two batches": [batch(GOOD), batch(GOOD)],
    "no batch": [],
    "no rows": [batch(GOOD).slice(0, 0)],
    "bad metadata": [batch(GOOD, {"n_users": "many"})],
}


@pytest.mark.parametrize("batches", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_rows_file_of_another_form_is_refused(tmp_path, batches):
    with pa.ipc.new_file(str(tmp_path / "rows.arrow"), (batches or [batch(GOOD)])[0].schema) as writer:
        for one in batches:
            writer.write_batch(one)
    with pytest.raises(DataError, match=r"cannot be read|another form"):
        read_rows(tmp_path / "rows.arrow")


def test_a_good_rows_file_passes_the_same_check(tmp_path):
    """The control of the test above."""
    with pa.ipc.new_file(str(tmp_path / "rows.arrow"), batch(GOOD).schema) as writer:
        writer.write_batch(batch(GOOD))
    assert len(read_rows(tmp_path / "rows.arrow")) == 1


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_cut_rows_file_is_refused(tmp_path, cut):
    saved(tmp_path)
    path = Store.open(tmp_path).rows_path
    data = path.read_bytes()
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(pa.py_buffer(data[:cut]))
    assert len(read_rows(pa.py_buffer(data))) == 3


def test_a_large_store_opens_in_constant_memory(tmp_path):
    n = 2_000_000
    rows = Interactions(
        np.repeat(np.arange(n // 100, dtype=np.int32), 100),
        np.tile(np.arange(100, dtype=np.int32), n // 100),
        np.ones(n, dtype=np.float32),
        np.arange(n, dtype=np.int64),
        n // 100,
        100,
    )
    ids = [str(u) for u in range(n // 100)]
    save(tmp_path, content_version(rows, ids, [str(i) for i in range(100)]), rows, ids, {})
    before = pa.total_allocated_bytes()
    found = Store.open(tmp_path).rows()
    assert pa.total_allocated_bytes() - before < 100_000
    assert int(found.time[-1]) == n - 1
