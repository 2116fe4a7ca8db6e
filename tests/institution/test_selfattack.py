"""A site attacks itself before it serves: each attack notices its own hole, and then the site does not start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import holes
import pytest
from small_site import make_site

OVER_HTTP = list(holes.HOLES)
OUT_OF_THE_JAIL = {
    "jail-environment": "jail-environment",
    "jail-network": "jail-network",
    "jail-file": "jail-file, jail-key, jail-write, jail-root",
}
PREFIX = "a: does not serve, for its own attacks got through: "


def script(*arguments, **environment):
    return subprocess.run(
        [sys.executable, holes.__file__, *map(str, arguments)], capture_output=True, text=True, timeout=120,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the self-attack says of a site with each hole."""
    run = script("each", tmp_path_factory.mktemp("holes"))
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", OVER_HTTP)
def test_each_attack_notices_the_hole_of_its_name_and_no_other(name, said):
    assert said[name] == PREFIX + name


@pytest.mark.parametrize("name", OUT_OF_THE_JAIL)
def test_a_jail_with_a_hole_is_noticed(name, said):
    assert said[name] == PREFIX + OUT_OF_THE_JAIL[name]


def test_every_attack_has_a_hole(said):
    names = {*OVER_HTTP, *(name for names in OUT_OF_THE_JAIL.values() for name in names.split(", "))}
    assert said["none"] == f"{len(names)} stopped"


def test_a_jail_that_does_not_answer_counts_as_got_through(said):
    assert said["jail that has ended"] == PREFIX + "jail"


def test_the_attacks_take_less_than_two_seconds_and_leave_nothing(said):
    assert said["seconds"] < 2
    assert said["left"] == []
    assert said["accounts"] == []


@pytest.mark.sites
@pytest.mark.parametrize(
    ("hole", "code", "text"),
    [
        ("replay", 1, f"fedrec: {PREFIX}replay"),
        ("jail-file", 1, f"fedrec: {PREFIX}jail-file"),
        ("pysyft", 2, "fedrec: PySyft 0.9.5 is installed; this site knows the holes of 0.9.4 only"),
    ],
)
def test_a_site_with_a_hole_ends_before_it_serves(hole, code, text, tmp_path):
    make_site(tmp_path).close()
    (tmp_path / "a" / "DATASHEET.md").write_text("# A")
    run = script("serve", tmp_path / "a", hole, FEDREC_OWNER_PASSWORD="owner-secret")
    assert (run.returncode, run.stdout) == (code, ""), run.stderr  # a site that serves prints its address
    assert text in run.stderr
    assert not (Path(tmp_path) / "a" / "state" / "control.sock").exists()
