"""Passwords: from FEDREC_… or from a 0600 file named by FEDREC_…_FILE; never from TOML, and gone after the start."""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from fedrec.errors import WrongInput

PASSWORDS = ("FEDREC_OWNER_PASSWORD", "FEDREC_PASSWORD")


def secret(name: str) -> str | None:
    """The password `name`, or None when nobody gave it.

    Raises:
        WrongInput: both the variable and the file are given, or others than its owner can read the file.
    """
    value, file = os.environ.get(name), os.environ.get(f"{name}_FILE")
    if not file:
        return value or None
    if value:
        raise WrongInput(f"{name} and {name}_FILE are both set; give one of them")
    return read_secret(Path(file), f"{name}_FILE")


def read_secret(path: Path, called: str) -> str:
    """What a secret's file holds, without the line break at its end. Raises: WrongInput, as `secret`."""
    try:
        with path.open("rb") as opened:
            about = os.fstat(opened.fileno())
            if not stat.S_ISREG(about.st_mode) or about.st_mode & 0o077 or about.st_uid not in (os.getuid(), 0):
                raise WrongInput(f"{called}: {path} must be a file that only you can read; chmod 600 {path}")
            text = opened.read(4097).decode().rstrip("\r\n")
    except OSError as error:
        raise WrongInput(f"{called}: {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise WrongInput(f"{called}: {path} is not UTF-8 text") from None
    if not text or len(text) > 4096 or "\n" in text:
        raise WrongInput(f"{called}: {path} must hold one line with the password")
    return text


def wipe(*names: str) -> None:
    """Take variables out of this process's environment.

    `os.environ.pop` alone leaves the text where /proc/PID/environ shows it until the process ends, so it is
    overwritten first.
    """
    find = ctypes.CDLL(None).getenv
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    for name in names:
        place = find(name.encode())
        if place:
            ctypes.memset(place, 0, len(ctypes.string_at(place)))
        os.environ.pop(name, None)
