"""Rows from a real PostgreSQL of our own: read through one query, never written to, its password never shown."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy
from source_files import ALL, ROWS, SECRET, institution

from fedrec.errors import DataError
from fedrec.institution import sources
from fedrec.institution.intake import take_in_folder
from fedrec.institution.store import Store

PASSWORD = "geheim-4711"
SITE = '[source]\nurl_env = "FEDREC_TEST_URL"\nquery = """{}"""\n'
QUERY = f"SELECT {ALL} FROM ratings"


def program(name: str) -> str:
    found = shutil.which(name) or next(iter(sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))), None)
    assert found, f"PostgreSQL's {name} is missing: apt-get install postgresql"
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[int]:
    """The port of a PostgreSQL server on the loopback address; it refuses to run as root, so then as its own user."""
    folder = Path(tempfile.mkdtemp(prefix="fedrec-pg-"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    (folder / "pw").write_text(PASSWORD)
    (folder / "pw").chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(name: str, *arguments: str) -> None:
        command = [program(name), "-D", str(folder / "data"), *arguments]
        subprocess.run(
            command, user=user if os.geteuid() == 0 else None, cwd=folder, check=True, stdout=subprocess.DEVNULL
        )

    try:
        run("initdb", "-U", "owner", "-A", "scram-sha-256", f"--pwfile={folder}/pw", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield port
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def shop(cluster: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg2.extensions.connection]:
    """A table of ratings, and the URL in the environment."""
    monkeypatch.setenv("FEDREC_TEST_URL", f"postgresql://owner:{PASSWORD}@127.0.0.1:{cluster}/postgres")
    line = psycopg2.connect(host="127.0.0.1", port=cluster, user="owner", password=PASSWORD, dbname="postgres")
    line.autocommit = True
    with line.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS ratings, stolen; DROP SEQUENCE IF EXISTS numbers; CREATE SEQUENCE numbers")
        cursor.execute('CREATE TABLE ratings ("user" text, item varchar(9), rating numeric(3,1), timestamp bigint)')
        cursor.executemany("INSERT INTO ratings VALUES (%s, %s, %s, %s)", ROWS)
    yield line
    line.close()


def folder_of(root: Path, query: str = QUERY) -> Path:
    return institution(root, SITE.format(query.replace("user,", '\\"user\\",')))


def state_of(line: psycopg2.extensions.connection) -> tuple:
    """The table's rows, the sequence, and the tables that are there."""
    with line.cursor() as cursor:
        cursor.execute("SELECT count(*), sum(rating) FROM ratings")
        first = cursor.fetchone()
        cursor.execute("SELECT is_called FROM numbers")
        second = cursor.fetchone()
        cursor.execute("SELECT array_agg(tablename::text ORDER BY 1) FROM pg_tables WHERE schemaname = 'public'")
        return first, second, cursor.fetchone()


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_rows_come_from_postgresql_by_either_driver(tmp_path, shop, monkeypatch, driver):
    monkeypatch.setenv("FEDREC_TEST_URL", os.environ["FEDREC_TEST_URL"].replace("postgresql", driver))
    folder = folder_of(tmp_path, f"{QUERY} WHERE item LIKE 'b%' OR item = 'a'")  # a % is a %
    report = take_in_folder(folder)
    rows = Store.open(folder / "state").rows()
    assert (report.rows_kept, rows.rating.tolist(), rows.time.tolist()) == (3, [3, 5, 1], [20, 10, 30])


def test_dates_uuids_and_gaps_of_postgresql_are_read(tmp_path, shop):
    query = (
        "SELECT '00000000-0000-0000-0000-000000000007'::uuid AS user, item, rating, "
        "'2024-07-15 12:00:00+02'::timestamptz + n * interval '1 s' AS timestamp "
        "FROM (VALUES ('a', 3, 0), ('b', NULL, 1)) AS r(item, rating, n)"
    )
    folder = institution(tmp_path, SITE.format(query.replace("AS user", 'AS \\"user\\"')))
    text = (folder / "schema.toml").read_text().replace("title", "max_rejected = 0.5\ntitle", 1)
    (folder / "schema.toml").write_text(text + '[time]\nunit = "iso"\n')
    report = take_in_folder(folder)
    assert (report.rows_kept, report.rejected["rating"], report.first_time) == (1, 1, "2024-07-15T10:00:00Z")
    assert Store.open(folder / "state").user_ids() == ["00000000-0000-0000-0000-000000000007"]


def test_many_rows_come_in_pieces(tmp_path, shop, monkeypatch):
    monkeypatch.setattr(sources, "AT_ONCE", 1000)
    query = "SELECT n AS user, 'a' AS item, 3 AS rating, n AS timestamp FROM generate_series(1, 5500) AS n"
    report = take_in_folder(folder_of(tmp_path, query.replace("AS user,", 'AS \\"user\\",')))
    assert (report.rows_kept, report.users) == (5500, 5500)


OFF = "set_config('{}', 'off', false)"
WRITES = {
    "delete": f"WITH gone AS (DELETE FROM ratings RETURNING *) SELECT {ALL} FROM gone",
    "insert": f"WITH more AS (INSERT INTO ratings SELECT * FROM ratings RETURNING *) SELECT {ALL} FROM more",
    "select into": f"SELECT {ALL} INTO stolen FROM ratings",
    "sequence": f"SELECT {ALL}, nextval('numbers') FROM ratings",
    "for update": f"SELECT {ALL} FROM ratings FOR UPDATE",
    "turn it off": f"SELECT {ALL}, {OFF.format('transaction_read_only')}, nextval('numbers') FROM ratings",
    "turn the default off": f"SELECT {ALL}, {OFF.format('default_transaction_read_only')}, nextval('numbers') FROM ratings",
    "function": f"SELECT {ALL}, query_to_xml('DELETE FROM ratings RETURNING 1', true, true, '') FROM ratings",
}


@pytest.mark.parametrize("query", WRITES.values(), ids=WRITES.keys())
def test_a_query_that_writes_is_refused_and_changes_nothing(tmp_path, shop, query):
    before = state_of(shop)
    with pytest.raises(DataError, match=r"the query (writes|fails)") as caught:
        take_in_folder(folder_of(tmp_path, query))
    assert PASSWORD not in str(caught.value)
    assert state_of(shop) == before


def test_control_without_the_read_only_transaction_the_same_query_writes(tmp_path, shop, monkeypatch):
    """A sequence goes on even when the transaction is rolled back, so it shows that the query has run."""
    real = sqlalchemy.create_engine
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda url, execution_options, **more: real(url, **more))
    before = state_of(shop)
    assert take_in_folder(folder_of(tmp_path, WRITES["sequence"])).rows_kept == 3
    assert state_of(shop) != before


def test_a_wrong_password_a_wrong_port_and_a_failing_query_show_nothing(tmp_path, shop, monkeypatch):
    right = os.environ["FEDREC_TEST_URL"]
    cases = [
        (right.replace(PASSWORD, SECRET), QUERY, "does not answer, or refuses the login"),
        (right.replace("127.0.0.1", "127.0.0.2"), QUERY, "does not answer, or refuses the login"),
        (right, f"SELECT {ALL} FROM {SECRET.replace('-', '_')}", r"the query fails \(UndefinedTable\)"),
        (
            right,
            f"SELECT {ALL} FROM ratings WHERE item = CAST('{SECRET}' AS int)::text",
            r"\(InvalidTextRepresentation\)",
        ),
    ]
    for number, (url, query, says) in enumerate(cases):
        monkeypatch.setenv("FEDREC_TEST_URL", url)
        with pytest.raises(DataError, match=says) as caught:
            take_in_folder(folder_of(tmp_path / str(number), query))
        for secret in (PASSWORD, SECRET, SECRET.replace("-", "_"), "127.0.0"):
            assert secret not in str(caught.value)
