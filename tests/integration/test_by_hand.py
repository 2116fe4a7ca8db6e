"""The README's sequence by hand, run as it stands there, for a consortium of one institution and generated ratings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_sites import ADA_PASSWORD

from fedrec.demo.sites import SCIENTIST, clean_environment

pytestmark = pytest.mark.sites
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWNER = {"FEDREC_USER": "owner@aurora.example", "FEDREC_PASSWORD": ADA_PASSWORD}
ADA = {"FEDREC_USER": SCIENTIST, "FEDREC_PASSWORD": ADA_PASSWORD}


def sequence() -> list[str]:
    """The lines of the shell block that begins with the data."""
    (block,) = (
        text for text in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "fedrec site serve aurora" in text
    )
    return block.splitlines()


def started(folder: Path, words: list[str], **secrets: str) -> subprocess.Popen[str]:
    """A command in a shell of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", *words], cwd=folder, env=clean_environment(**secrets), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_the_readmes_sequence_by_hand_ends_in_recommendations_and_a_sound_log(tmp_path):
    movies = tmp_path / "movies"
    shutil.copytree(ROOT / "domains" / "movies", movies)
    config = movies / "consortium.toml"
    head, aurora, *_ = config.read_text().split("[[member]]")
    (toml,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (movies / "run.toml").write_text(toml)
    serve = run = None
    said = {}
    try:
        for line in sequence():
            line = line.replace("get ml-100k", "get synthetic").replace(",borealis,cinema-lumen,delphi", "")
            if " ID" in line:
                listed = json.loads(said["fedrec requests list"])["requests"]
                line = line.replace("ID", listed[0]["id"][:8])
            words = line.split()
            name = " ".join(words[:3])
            if name == "fedrec site serve":
                serve = started(movies, words, FEDREC_OWNER_PASSWORD=ADA_PASSWORD)
                assert "aurora serves" in serve.stdout.readline()
                url = json.loads((movies / "aurora" / "state" / "site.json").read_text())["url"]
                pinned = aurora.replace('key = ""', f'key = "{said["fedrec site keys"].strip()}"')
                config.write_text(f"{head}[[member]]{pinned}".replace('url = ""', f'url = "{url}"'))
                continue
            if words[1] == "run":
                run = started(movies, words, **ADA)
                continue
            if name == "fedrec recommend aurora":
                out, _ = run.communicate(timeout=90)
                assert run.returncode == 0, out
                user = (movies / "aurora" / "data" / "ratings.csv").read_text().splitlines()[1].partition(",")[0]
                words[words.index("--user") + 1] = user
            secrets = {"FEDREC_PASSWORD": ADA_PASSWORD} if "users" in words else OWNER
            for _ in range(100):  # the list is empty until the run has submitted its plan
                one = started(movies, [*words, "--json", "-"] if "list" in words else words, **secrets)
                said[name] = one.communicate(timeout=60)[0]
                assert one.returncode == 0, (line, said[name])
                if name != "fedrec requests list" or json.loads(said[name])["requests"]:
                    break
                time.sleep(0.2)
    finally:
        for process in (run, serve):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(30)
    assert len(said["fedrec recommend aurora"].splitlines()) >= 10
    assert "ok" in said["fedrec audit verify"]
