"""What cannot be written is refused before anything is done, with one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from real_sites import command, one_line
from test_readme import COMMANDS

JSON = {path: found for path, found in COMMANDS.items() if any("--json" in option.opts for option in found.params)}


def test_most_commands_take_json():
    assert len(JSON) > 30


@pytest.mark.parametrize("path", JSON)
def test_a_json_file_that_cannot_be_is_refused_before_the_command_looks_at_anything_else(path, tmp_path):
    for target in (tmp_path / "no" / "x.json", tmp_path, tmp_path / "file" / "x.json"):
        (tmp_path / "file").touch()
        done = CliRunner().invoke(JSON[path], ["--json", str(target)])  # other arguments are missing as well
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"{target} cannot be written; name a file in a folder that exists" in done.stderr


@pytest.mark.parametrize("target", ["-", "new.json", "old.json"])
def test_a_json_file_that_can_be_written_is_not_touched_before_the_end(target, tmp_path, monkeypatch):
    """The control."""
    monkeypatch.chdir(tmp_path)
    Path("old.json").write_text("as it was")
    done = CliRunner().invoke(JSON["fedrec site status"], ["--json", target])
    assert "cannot be written" not in done.stderr
    assert "Missing argument" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert Path("old.json").read_text() == "as it was"


def test_the_refusal_is_one_line_with_code_2(tmp_path):
    said = one_line(command("demo", "--synthetic", "--json", tmp_path / "no" / "x.json"), 2)
    assert "name a file in a folder that exists" in said


@pytest.mark.parametrize("taken", ["FEDREC_CACHE", "HOME"])
def test_a_cache_that_cannot_be_written_is_one_line_that_names_the_variable(taken, tmp_path):
    (tmp_path / "file").touch()
    places = {"HOME": str(tmp_path), "FEDREC_CACHE": ""} | {taken: str(tmp_path / "file")}
    said = one_line(command("data", "get", "ml-100k", tmp_path / "out", **places), 2)
    assert "set FEDREC_CACHE to a folder that can" in said


def test_a_folder_to_keep_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    said = one_line(command("demo", "--synthetic", "--keep", tmp_path / "file" / "kept"), 2)
    assert "--keep" in said
    assert "name another folder" in said


def test_a_folder_to_keep_with_something_in_it_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    said = one_line(command("demo", "--synthetic", "--keep", tmp_path), 2)
    assert "is not empty; name a new folder, or delete this one" in said
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
