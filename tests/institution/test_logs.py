"""The site's log: one JSON object a line, real exceptions, nothing personal, quiet on the screen."""

from __future__ import annotations

import json
import logging

import pytest

from fedrec.institution import logs

_log = logging.getLogger("fedrec.site")


@pytest.fixture(autouse=True)
def _handlers():
    names = ["", "fedrec", "uvicorn", "asyncio"]
    before = [
        (n, logging.getLogger(n).handlers[:], logging.getLogger(n).level, logging.getLogger(n).propagate) for n in names
    ]
    yield
    for name, handlers, level, propagate in before:
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log" / "site.jsonl").read_text().splitlines()]


def fail():
    try:
        {}["canary key"]
    except KeyError as error:
        raise ValueError("dsn postgresql://u:canary-pw@db/x of ada@lab.example\nsecond line with a row") from error


def test_the_owner_sees_the_real_exception_with_its_cause_and_its_lines(tmp_path):
    logs.start(tmp_path)
    try:
        fail()
    except ValueError:
        _log.exception("a call of %s", "api.view")
    (row,) = rows(tmp_path)
    assert (row["level"], row["logger"], row["event"]) == ("error", "fedrec.site", "a call of api.view")
    assert [found["class"] for found in row["exceptions"]] == ["KeyError", "ValueError"]
    assert "test_logs.py" in row["exceptions"][1]["lines"][-1]
    assert row["exceptions"][1]["lines"][-1].endswith(" in fail")


def test_addresses_and_passwords_are_masked_wherever_they_stand(tmp_path, capsys):
    logs.start(tmp_path)
    try:
        fail()
    except ValueError:
        _log.exception(
            "ada@lab.example sent password=canary-pw to https://u:canary-pw@host", extra={"facts": {"by": "a@b.cd"}}
        )
    text = (tmp_path / "log" / "site.jsonl").read_text()
    assert text.count("canary-pw") == 0
    assert text.count("@lab.example") == text.count("a@b.cd") == text.count("second line") == 0
    assert "postgresql://***@db/x of <e-mail>" in text
    assert "canary-pw" not in capsys.readouterr().err


def test_the_screen_has_one_short_line_for_a_warning_and_nothing_below(tmp_path, capsys):
    logs.start(tmp_path)
    _log.info("start", extra={"facts": {"pid": 1}})
    assert capsys.readouterr().err == ""
    try:
        fail()
    except ValueError:
        _log.exception("a job")
    assert capsys.readouterr().err == "error: a job (ValueError); see state/log/site.jsonl\n"
    assert rows(tmp_path)[0]["facts"] == {"pid": 1}


@pytest.mark.parametrize(("level", "kept"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_says_what_is_kept(tmp_path, level, kept):
    logs.start(tmp_path, level)
    for name in logs.LEVELS:
        _log.log(logging.getLevelName(name.upper()), "x")
    assert len(rows(tmp_path)) == kept


def test_files_are_limited_in_size_and_number_and_private(tmp_path, monkeypatch):
    import os

    monkeypatch.setattr(logs, "MAX_BYTES", 2000)
    before = os.umask(0o077)
    try:
        logs.start(tmp_path)
        for number in range(200):
            _log.warning("warning number %d", number)
    finally:
        os.umask(before)
    files = sorted((tmp_path / "log").iterdir())
    assert len(files) == 1 + logs.KEPT
    assert all(file.stat().st_size <= 2000 and file.stat().st_mode & 0o077 == 0 for file in files)
    assert rows(tmp_path)[-1]["event"] == "warning number 199"


def test_errors_of_others_are_kept_after_they_set_up_logging_of_their_own(tmp_path):
    logs.start(tmp_path)
    logging.getLogger().handlers[:] = [logging.NullHandler()]  # as PySyft does
    logging.getLogger("syft.something").error("lost")
    logs.take_over()
    logging.getLogger("syft.something").error("kept")
    logging.getLogger("syft.something").warning("too quiet")
    assert [row["event"] for row in rows(tmp_path)] == ["kept"]
