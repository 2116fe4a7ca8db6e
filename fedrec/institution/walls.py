"""The levels of the jail: which of them this machine can do, and the command that starts the warm parent at each.

    1   rlimits, an empty environment, another user where the site is root
    2   and every job in namespaces of its own: no network, an empty file system, no other processes
    3   and the warm parent itself inside bubblewrap

At level 2 the parent that every job is forked from lives in the machine's own namespaces: whoever broke out of a
job's namespaces through the kernel's mount table stood among the site's files. At level 3 he stands in another
empty place: Python's libraries read-only, no network, no other process, no file of the institution or of the machine.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import fedrec
from fedrec.errors import WrongInput

NO_BUBBLEWRAP = (
    "jail level 3 does not work here: it needs the package bubblewrap and the right to make namespaces; "
    "see limits.jail_level in site.toml"
)
NO_NAMESPACES = (
    "jail level 2 does not work here: it needs root, or user namespaces for ordinary users; "
    "see limits.jail_level in site.toml"
)
PACKAGE = Path(__file__).parents[1]
# Rights that the parent needs to make a job's namespaces and to give the job another user; a job has none of them.
_RIGHTS = ("CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
_SPACES = 0x20000 | 0x4000000 | 0x8000000 | 0x20000000 | 0x40000000  # mount, host name, IPC, process, network
_TRIAL = (
    "import ctypes, os; os.pidfd_open(os.getpid()); os.listdir({package!r}); os.listdir({libraries!r}); "
    "os._exit(0 if ctypes.CDLL(None).unshare({flags}) == 0 else 1)"
)


def environment() -> dict[str, str]:
    """Python, fedrec, and every distribution that is installed for the site's Python, with their versions.

    Names are written in small letters with hyphens, as package indexes compare them.
    """
    places = list({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})  # not what setuptools brings along
    found = {_plain(one.metadata["Name"]): one.version for one in importlib.metadata.distributions(path=places)}
    return {"python": platform.python_version()} | dict(sorted(found.items())) | {"fedrec": fedrec.__version__}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def level_here(least: int) -> int:
    """The level that jobs run at: 3 wherever bubblewrap works, unless the site is content with 1.

    Raises:
        WrongInput: this machine does not reach the site's least level.
    """
    if least >= 2 and bubblewrap_works():
        return 3
    if least >= 3:
        raise WrongInput(NO_BUBBLEWRAP)
    if least == 2 and not _runs([sys.executable, "-I", "-S"]):
        raise WrongInput(NO_NAMESPACES)
    return least


def bubblewrap_works() -> bool:
    """Whether bubblewrap is installed, shows Python's libraries, and lets a process inside make namespaces."""
    return shutil.which("bwrap") is not None and _runs(command(["-S"]))


def _runs(python: list[str]) -> bool:
    """Whether this Python finds what the jail needs and may make a job's namespaces."""
    if sys.platform != "linux":
        return False
    flags = _SPACES if os.geteuid() == 0 else _SPACES | 0x10000000  # an ordinary user needs a user space as well
    text = _TRIAL.format(flags=flags, package=str(PACKAGE), libraries=sysconfig.get_path("purelib"))
    try:
        return (
            subprocess.run([*python, "-c", text], env={}, capture_output=True, timeout=20, check=False).returncode == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def command(arguments: Sequence[str]) -> list[str]:
    """`python -I -B` with these arguments, inside bubblewrap."""
    bwrap = shutil.which("bwrap") or "bwrap"
    return [bwrap, *_options(), "--", sys.executable, "-I", "-B", *arguments]


def _options() -> list[str]:
    """Namespaces of its own, and nothing in them but Python's libraries and fedrec, read-only."""
    made = ["--die-with-parent", "--new-session", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    made += ["--unshare-cgroup-try", "--cap-drop", "ALL"]
    if os.geteuid() == 0:
        for right in _RIGHTS:
            made += ["--cap-add", right]
    made += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    for path in map(Path, shown()):
        if path.is_symlink():
            made += ["--symlink", os.readlink(path), str(path)]
        else:
            made += ["--ro-bind-try", str(path), str(path)]
    python = str(Path(sys.executable).resolve())
    for binary in dict.fromkeys([python, sys.executable]):
        made += ["--ro-bind", python, binary]
    return [*made, "--remount-ro", "/", "--chdir", "/"]


def shown() -> list[str]:
    """What of this machine's files is there, besides the Python program."""
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"]
    paths = sysconfig.get_paths()
    python = [
        str(Path(sys.base_prefix) / "lib"),
        *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    ]
    return list(dict.fromkeys([*system, *python, str(Path(sys.prefix) / "pyvenv.cfg"), str(PACKAGE)]))
