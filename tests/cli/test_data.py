"""fedrec data: what it writes, and that JSON stands alone on stdout."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from fedrec.cli.data import data
from fedrec.cli.output import emit
from fedrec.errors import WrongInput

SIZES = ["--users", "20", "--items", "80", "--seed", "1"]


def run(*arguments: object):
    return CliRunner().invoke(data, [str(a) for a in arguments])


def test_synthetic_data_is_written_and_split_as_the_contract_says(tmp_path):
    got = run("get", "synthetic", tmp_path, *SIZES, "--json", "-")
    row = json.loads(got.stdout)  # exactly one JSON object
    assert (got.exit_code, row["name"], row["users"], row["items"]) == (0, "synthetic", 20, 80)
    assert {p.name for p in tmp_path.iterdir()} == {"ratings.csv", "users.csv", "items.csv"}
    arguments = ["split", tmp_path / "ratings.csv", tmp_path / "out", "--institutions", 4, "--by", "iid"]
    parts = json.loads(run(*arguments, "--json", "-").stdout)
    assert parts["institutions"] == ["aurora", "borealis", "cinema-lumen", "delphi"]
    assert sum(parts["rows"].values()) == row["rows"]
    assert (tmp_path / "out" / "delphi" / "data" / "ratings.csv").is_file()


def test_json_into_a_file_leaves_the_text_on_stdout(tmp_path):
    got = run("get", "synthetic", tmp_path / "d", *SIZES, "--json", tmp_path / "out.json")
    assert got.stdout.startswith("synthetic, seed 1: ")
    assert len(got.stdout.splitlines()) == 1
    assert json.loads((tmp_path / "out.json").read_text())["source"] == "synthetic, seed 1"


def test_institutions_can_be_named(tmp_path):
    run("get", "synthetic", tmp_path, *SIZES)
    got = run("split", tmp_path / "ratings.csv", tmp_path, "--institutions", "north,south", "--by", "size")
    assert [line.split()[0] for line in got.stdout.splitlines()] == ["north", "south"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["get", "ml-100k", "X", "--users", "5"], "--users is for synthetic data"),
        (["get", "synthetic", "X", "--from-file", "f"], "--from-file is for ml-100k"),
        (["get", "netflix", "X"], "'netflix' is not one of"),
        (["get", "synthetic", "X", "--seed", "-1"], "not in the range"),
        (["split", "f.csv", "X"], "Missing option '--institutions'"),
    ],
)
def test_arguments_that_do_not_fit_end_with_2(arguments, says):
    got = run(*arguments)
    assert (got.exit_code, says in got.stderr, got.stdout) == (2, True, "")


def test_wrong_input_reaches_the_caller_as_an_error_with_exit_code_2(tmp_path):
    got = run("split", tmp_path / "none.csv", tmp_path, "--institutions", "4")
    assert isinstance(got.exception, WrongInput)
    assert got.exception.exit_code == 2
    got = run("get", "ml-100k", tmp_path / "x", "--from-file", tmp_path / "none.whl")
    assert isinstance(got.exception, WrongInput)


def test_a_figure_that_is_no_number_cannot_be_printed_as_json():
    with pytest.raises(ValueError, match="JSON"):
        emit({"hr@10": float("nan")}, "-", "")


def test_a_json_file_that_cannot_be_written_is_said_in_one_line(tmp_path):
    with pytest.raises(WrongInput, match="cannot be written"):
        emit({}, str(tmp_path), "")


def test_every_command_has_help():
    assert all(command.help and command.short_help is None for command in data.commands.values())
    assert run("--help").exit_code == 0
