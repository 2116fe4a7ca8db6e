"""Passwords come from the environment or a private file, and do not stay in the process's environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fedrec.config.secret import secret, wipe
from fedrec.errors import WrongInput

NAME = "FEDREC_PASSWORD"


@pytest.fixture(autouse=True)
def _no_password(monkeypatch):
    monkeypatch.delenv(NAME, raising=False)
    monkeypatch.delenv(f"{NAME}_FILE", raising=False)


def given(tmp_path, monkeypatch, text="pass word\n", mode=0o600):
    path = tmp_path / "password"
    path.write_text(text)
    path.chmod(mode)
    monkeypatch.setenv(f"{NAME}_FILE", str(path))


def test_a_file_of_mode_0600_is_read_without_its_last_line_break(tmp_path, monkeypatch):
    assert secret(NAME) is None
    given(tmp_path, monkeypatch)
    assert secret(NAME) == "pass word"
    monkeypatch.delenv(f"{NAME}_FILE")
    monkeypatch.setenv(NAME, "other")
    assert secret(NAME) == "other"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path, monkeypatch, mode):
    given(tmp_path, monkeypatch, mode=mode)
    with pytest.raises(WrongInput, match="only you can read; chmod 600"):
        secret(NAME)


@pytest.mark.parametrize("text", ["", "\n", "two\nlines\n", "x" * 5000])
def test_a_file_must_hold_one_line_and_the_message_does_not_hold_it(tmp_path, monkeypatch, text):
    given(tmp_path, monkeypatch, text=text)
    with pytest.raises(WrongInput, match="must hold one line") as error:
        secret(NAME)
    assert "two" not in str(error.value)


def test_both_at_once_are_refused(tmp_path, monkeypatch):
    given(tmp_path, monkeypatch)
    monkeypatch.setenv(NAME, "x")
    with pytest.raises(WrongInput, match="are both set"):
        secret(NAME)
    monkeypatch.delenv(NAME)
    monkeypatch.setenv(f"{NAME}_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(WrongInput, match="cannot be read"):
        secret(NAME)


LOOK = """
import os, sys
sys.path.insert(0, {root!r})
from fedrec.config.secret import wipe
seen = lambda: b"canary-1234" in open("/proc/self/environ", "rb").read()
before = seen()
{act}
print(before, seen(), os.environ.get("FEDREC_PASSWORD"), os.environ["KEPT"])
"""


@pytest.mark.parametrize(
    ("act", "stays"), [('wipe("FEDREC_PASSWORD", "NOT_SET")', False), ('os.environ.pop("FEDREC_PASSWORD")', True)]
)
def test_a_wiped_password_is_gone_from_proc_environ_too(act, stays):
    """The control: popping it from os.environ leaves it there for every process of the same user."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    said = subprocess.run(
        [sys.executable, "-c", LOOK.format(root=root, act=act)],
        env={**os.environ, "FEDREC_PASSWORD": "canary-1234", "KEPT": "kept"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.split() == ["True", str(stays), "None", "kept"]


def test_wiping_a_variable_that_this_process_set_itself_is_fine(monkeypatch):
    monkeypatch.setenv(NAME, "mine")
    wipe(NAME)
    assert NAME not in os.environ
