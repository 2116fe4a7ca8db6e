"""JupyterLab as the lab starts it: on 127.0.0.1 and a free port, everything it writes below one folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.demo.sites import clean_environment, undisturbed
from fedrec.errors import WrongInput

START_S = 60.0


@dataclass(frozen=True, slots=True)
class Jupyter:
    """A running JupyterLab: its address with the token, and its process."""

    url: str
    process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Return when JupyterLab has ended by itself, as by its menu."""
        self.process.wait()


@contextmanager
def jupyter(own: Path, notebooks: Path) -> Iterator[Jupyter]:
    """Start JupyterLab on a folder of notebooks, and end it with its kernels whatever happens.

    Args:
        own: its folder: kernels, settings, run-time files, log. Nothing of anybody's home is read or written.

    Raises:
        WrongInput: it did not start.
    """
    runtime, names = own / "runtime", sorted(path.name for path in notebooks.glob("*.ipynb"))
    shutil.rmtree(runtime, ignore_errors=True)
    _settle(own / "config" / "lab", names)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"]
    command += [f"--ServerApp.root_dir={notebooks}", f"--ServerApp.default_url=/lab/tree/{names[0]}"]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    places = {"CONFIG_DIR": own / "config", "DATA_DIR": own, "RUNTIME_DIR": runtime}
    variables = {f"JUPYTER_{name}": str(place) for name, place in places.items()}
    cache = {name: value for name, value in os.environ.items() if name == "FEDREC_CACHE"}
    environment = clean_environment(**variables, **cache, IPYTHONDIR=str(own / "ipython"))
    process = None
    try:
        with (own / "jupyter.log").open("w") as log, undisturbed():
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        facts = _started(process, runtime)
        yield Jupyter(f"{facts['url']}lab/tree/{names[0]}?token={facts['token']}", process)
    finally:
        if process is not None:
            with undisturbed():
                _end(process)


def _settle(lab: Path, names: Sequence[str]) -> None:
    """What JupyterLab finds at its first start: it asks the network for no news, and each notebook has a tab."""
    from jupyterlab_server.workspaces_handler import WorkspacesManager

    path = lab / "user-settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    if path.exists():
        return
    tabs = [f"notebook:{name}" for name in names]
    dock = {"type": "tab-area", "currentIndex": 0, "widgets": tabs}
    opened = {tab: {"data": {"path": name, "factory": "Notebook"}} for tab, name in zip(tabs, names, strict=True)}
    layout = {"layout-restorer:data": {"main": {"dock": dock, "current": tabs[0]}}}
    workspace = {"data": layout | opened, "metadata": {"id": "default"}}
    WorkspacesManager(str(lab / "workspaces")).save("default", json.dumps(workspace))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))


def _started(process: subprocess.Popen[bytes], runtime: Path) -> dict[str, Any]:
    """What JupyterLab wrote about itself, once it answers. Raises: WrongInput."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
        for path in runtime.glob("jpserver-*.json"):
            with suppress(ValueError, OSError):
                facts: dict[str, Any] = json.loads(path.read_text())
                with urllib.request.urlopen(f"{facts['url']}api", timeout=5):
                    return facts
    raise WrongInput(f"JupyterLab did not start; see {runtime.parent.name}/jupyter.log in the lab's folder")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End JupyterLab, which ends its kernels; kernels left behind by a killed one see that it is gone, and end."""
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
