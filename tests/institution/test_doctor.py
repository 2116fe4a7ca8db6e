"""fedrec site check: a sound folder passes, and each planted fault is found with what to do about it."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_site import make_site

from fedrec.cli.site import site as command
from fedrec.config import SchemaConfig
from fedrec.errors import WrongInput
from fedrec.institution import doctor, shims
from fedrec.institution.doctor import Finding, examine, worst
from fedrec.institution.mock import make_mock


@pytest.fixture(autouse=True)
def _password(monkeypatch):
    monkeypatch.setenv("FEDREC_OWNER_PASSWORD", "canary-password")


@pytest.fixture
def folder(tmp_path) -> Path:
    made = make_site(tmp_path)
    made.audit.event("site", "site", "start", "a", outcome="done")
    made.close()
    (made.folder / "DATASHEET.md").write_text("# A\n")
    config = tmp_path / "consortium.toml"
    config.write_text(config.read_text() + f'key = "{made.keys.public}"\n')
    return made.folder


def replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def found(folder: Path, about: str, state: str = "fail") -> list[Finding]:
    return [finding for finding in examine(folder) if (finding.about, finding.state) == (about, state)]


def test_a_sound_folder_passes_and_the_jail_is_really_tried(folder):
    findings = examine(folder)
    assert {finding.state for finding in findings} == {"ok"}, findings
    assert [finding.about for finding in findings] == [
        "site.toml", "schema.toml", "mock", "consortium", "keys", "disk", "clock", "PySyft", "account", "pins", "port", "jail",
    ]  # fmt: skip
    assert re.fullmatch(r"level [23] works here.*", findings[-1].found)
    assert "canary-password" not in str(findings)


def test_a_mock_file_that_the_schema_did_not_make_is_noticed_and_its_own_is_right(folder):
    file = folder / "mock.csv"
    assert "there is no mock.csv" in found(folder, "mock", "ok")[0].found
    file.write_text(make_mock(SchemaConfig.load(folder / "schema.toml")).to_csv(index=False))
    assert found(folder, "mock", "ok")[0].found == "mock.csv is what the schema makes"
    file.write_text(file.read_text().replace("mock-user-0001", "canary-1"))
    (finding,) = found(folder, "mock", "warn")
    assert "delete mock.csv" in finding.do
    assert "canary" not in finding.text()


FAULTS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("site.toml", "owner: must be an e-mail", lambda f: replace(f / "site.toml", "owner@a.example", "nobody")),
    ("site.toml", "there is no such file", lambda f: (f / "site.toml").unlink()),
    ("schema.toml", "min", lambda f: replace(f / "schema.toml", "min = 1", "min = 9")),
    ("data card", "is missing", lambda f: (f / "DATASHEET.md").unlink()),
    ("consortium", "no item catalogue", lambda f: (f.parent / "items.csv").unlink()),
    ("pins", "no member called", lambda f: replace(f.parent / "consortium.toml", 'name = "a"', 'name = "b"')),
    ("pins", "pins another key", lambda f: (f / "state" / "keys" / "site.key").write_text("11" * 32)),
    ("keys", "mode 644", lambda f: (f / "state" / "keys" / "site.key").chmod(0o644)),
    ("keys", "mode 755", lambda f: (f / "state" / "keys").chmod(0o755)),
    ("keys", "uid is missing", lambda f: (f / "state" / "keys" / "uid").unlink()),
    ("account", "ledger cannot be read", lambda f: (f / "state" / "ledger.sqlite").write_bytes(b"no database" * 99)),
]


@pytest.mark.parametrize(("about", "says", "spoil"), FAULTS, ids=[f"{about}: {says}" for about, says, _ in FAULTS])
def test_a_fault_is_found_with_what_to_do(folder, monkeypatch, about, says, spoil):
    monkeypatch.setattr(doctor, "_jail", lambda _: Finding("jail", "ok", "not tried here"))
    assert found(folder, about) == []
    spoil(folder)
    hit = [finding for finding in found(folder, about) if says in finding.found]
    assert hit, examine(folder)
    assert all(finding.do for finding in hit)


def test_what_lies_outside_the_folder_is_found_too(folder, monkeypatch):
    monkeypatch.setattr(doctor, "_jail", lambda _: Finding("jail", "ok", "not tried here"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        replace(folder / "site.toml", 'title = "A"', f'title = "A"\nport = {port}')
        assert f"{port} on 127.0.0.1 cannot be used" in found(folder, "port")[0].found
        assert [f.found for f in examine(folder, lambda _: 7) if f.about == "port"] == ["the site runs (process 7)"]
    monkeypatch.setattr(shims, "KNOWN", "0.9.4")
    assert "its holes are not known" in found(folder, "PySyft")[0].found
    monkeypatch.setattr(doctor, "LEAST_MB", 10**9)
    monkeypatch.setattr(doctor, "LOW_MB", 10**9)
    assert "MB are free" in found(folder, "disk")[0].found
    monkeypatch.delenv("FEDREC_OWNER_PASSWORD")
    assert "FEDREC_OWNER_PASSWORD_FILE" in found(folder, "account", "warn")[0].do


def test_a_clock_that_jumps_or_is_in_another_year_or_went_back_is_found(folder):
    import time

    jumps = iter([0.0, 5.0, 5.0, 5.0, 5.0, 5.0])
    assert "jumped by 5.00 s" in doctor._clock(folder, lambda: time.time() + next(jumps)).found
    assert "the year 1970" in doctor._clock(folder, lambda: time.time() - time.time() // 1 + 60).found
    assert "went back" in doctor._clock(folder, lambda: time.time() - 3600).found
    assert doctor._clock(folder, time.time).state == "ok"


def test_a_jail_that_does_not_work_here_is_a_failure(folder, monkeypatch):
    """Its process ends at once here, as where there is no user namespace."""
    monkeypatch.setattr("sys.executable", "/bin/false")
    jail = examine(folder)[-1]
    assert (jail.about, jail.state) == ("jail", "fail")
    assert "limits.jail_level" in jail.do


def test_the_command_prints_all_lines_and_ends_with_0_or_2(folder, monkeypatch):
    monkeypatch.setattr(doctor, "_jail", lambda _: Finding("jail", "ok", "not tried here"))
    right = CliRunner().invoke(command, ["check", str(folder), "--json", "-"])
    row = json.loads(right.stdout)
    assert (right.exit_code, row["verdict"], row["data"]["rows_kept"]) == (0, "ok", 30)
    assert {check["about"] for check in row["checks"]} >= {"data", "port", "jail"}
    replace(folder / "data" / "ratings.csv", "film-0,4", "film-0,44")
    wrong = CliRunner().invoke(command, ["check", str(folder)])
    assert isinstance(wrong.exception, WrongInput)
    assert WrongInput.exit_code == 2
    assert "fail  data " in wrong.stdout
    assert "-> correct the data or schema.toml" in wrong.stdout


def test_the_worst_state_wins():
    ok, warn, fail = (Finding("x", state, "y") for state in ("ok", "warn", "fail"))
    assert (worst([ok]), worst([ok, warn]), worst([warn, fail, ok])) == ("ok", "warn", "fail")
