"""`fedrec lab`: what each kernel may know, and that nothing is left when it ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fedrec.datasets import synthetic
from fedrec.demo.kernel import environment
from fedrec.demo.sites import prepare, write_secret
from fedrec.errors import WrongInput

ROOT = Path(__file__).parents[2]


def test_a_kernel_gets_its_own_role_and_nobody_elses(tmp_path):
    role = tmp_path / "scientist.json"
    write_secret(role, {"FEDREC_USER": "ada", "FEDREC_PASSWORD": "hers"})
    assert role.stat().st_mode & 0o777 == 0o600
    outer = {
        "FEDREC_SITE": "aurora",
        "FEDREC_OWNER_PASSWORD": "his",
        "FEDREC_CACHE": "c",
        "JUPYTER_TOKEN": "t",
        "HOME": "h",
    }
    seen = environment(role, outer)
    assert seen.pop("PATH").split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert seen == {"FEDREC_USER": "ada", "FEDREC_PASSWORD": "hers", "FEDREC_CACHE": "c", "HOME": "h"}


def test_a_lab_away_from_the_notebooks_says_so(tmp_path):
    from fedrec.demo.lab import Lab

    with (
        pytest.raises(WrongInput, match="start the lab in the folder that holds both"),
        Lab(tmp_path / "lab", print).running(tmp_path / "no", tmp_path / "none"),
    ):
        pass
    assert not (tmp_path / "lab").exists()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A lab that is prepared already, with aurora alone and few rows."""
    one = tmp_path / "one"
    shutil.copytree(
        ROOT / "domains" / "movies" / "aurora", one / "aurora", ignore=shutil.ignore_patterns("data", "state")
    )
    member = 'name = "one"\ntitle = "One cinema"\n[[member]]\nname = "aurora"\nfolder = "aurora"\n'
    (one / "consortium.toml").write_text(member)
    synthetic(tmp_path / "source", users=20, items=80)
    prepare(one, tmp_path / "lab" / "consortium", tmp_path / "source")
    return tmp_path / "lab"


@pytest.mark.sites
def test_ctrl_c_ends_jupyter_its_kernels_and_the_sites(small: Path):
    command = [sys.executable, "-m", "fedrec", "lab", "--no-browser", "--folder", str(small)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        try:
            assert url.hostname == "127.0.0.1", process.stderr.read() if process.poll() is not None else url
            kernels, wanted = f"http://{url.netloc}/api/kernels", json.dumps({"name": "fedrec-scientist"}).encode()
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(kernels, timeout=30)
            known = {"Authorization": f"token {url.query.removeprefix('token=')}"}
            with urllib.request.urlopen(urllib.request.Request(kernels, wanted, known), timeout=30) as answer:
                assert json.load(answer)["name"] == "fedrec-scientist"
            site = json.loads((small / "consortium" / "aurora" / "state" / "site.json").read_text())
            assert len(of_lab(small)) >= 4  # the lab, the site, JupyterLab, the kernel
            tabs = next((small / "jupyter" / "config" / "lab" / "workspaces").iterdir()).read_text()
            assert all(f"notebook:{path.name}" in tabs for path in (ROOT / "notebooks").glob("*.ipynb"))
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert left_after(10, small) == []
    for port in (url.port, urlsplit(site["url"]).port):
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
    passwords = small / "passwords.json"
    assert passwords.stat().st_mode & 0o777 == 0o600
    public = [*(small / "jupyter").rglob("*"), *(small / "scientist").iterdir(), *(small / "notebooks").iterdir()]
    text = errors + "".join(path.read_text(errors="replace") for path in public if path.is_file())
    assert [name for name, word in json.loads(passwords.read_text()).items() if word in text] == []


def of_lab(folder: Path) -> list[int]:
    """Processes that have to do with a lab's folder."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _names(pid, str(folder))]


def left_after(seconds: float, folder: Path) -> list[int]:
    """The same, when those that are about to end have ended."""
    deadline = time.monotonic() + seconds
    while (found := of_lab(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _names(pid: int, text: str) -> bool:
    with contextlib.suppress(OSError):
        told = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        return text.encode() in told and pid != os.getpid()
    return False
