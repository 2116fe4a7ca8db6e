"""MovieLens 100K: 943 users, 1682 films, 100,000 ratings (Harper, Konstan 2015, ACM TiiS 5(4):19).

Its licence does not let us ship it, so it is taken from the recbole 1.2.1 wheel, by pip, from wherever
the reader's pip is set up to look. Wheel, members and rows have pinned hashes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from fedrec.datasets.source import DataSource, Row, put, write_source
from fedrec.errors import Unreachable, WrongInput

_WHEEL = "recbole-1.2.1-py3-none-any.whl"
_WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_FOLDER = "recbole/dataset_example/ml-100k/"
_MEMBERS = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
_ROWS_SHA256 = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"  # the .inter without its header
_LARGEST = 16_000_000  # bytes; no ML-100K file is larger

_RATINGS = ("user", "item", "rating", "timestamp")
_USERS = ("user", "age", "gender", "occupation", "zip")
_ITEMS = ("item", "title", "year", "genres")


def get_ml100k(dest: Path, from_file: Path | None = None, progress: Callable[[str], None] | None = None) -> DataSource:
    """Write ML-100K's ratings.csv, users.csv and items.csv into `dest`; the ratings keep their order.

    Args:
        from_file: a copy one has: the recbole wheel, its ml-100k.inter, or MovieLens' own u.data.
            The last two hold no titles, so users.csv and items.csv then have ids only.
        progress: called with a short text at each step.

    Raises:
        Unreachable: no network, or the package index does not have the wheel.
        WrongInput: `from_file` or the downloaded wheel is not ML-100K to the byte, or FEDREC_CACHE cannot be written.
    """
    say = progress or (lambda _: None)
    if from_file is None:
        wheel = _cached_wheel(say)
    elif not from_file.is_file():
        raise WrongInput(f"{from_file}: there is no such file")
    elif from_file.suffix == ".whl":
        wheel = from_file
    else:
        say(f"reading {from_file.name}")
        return _bare(dest, from_file)
    say("unpacking ML-100K")
    tables = {name: _table(_member(wheel, name)) for name in _MEMBERS}
    items = [(item, title, year, genres.replace(" ", "|")) for item, title, year, genres in tables["ml-100k.item"]]
    return write_source(
        dest,
        "ml-100k from recbole 1.2.1",
        [_RATINGS, *tables["ml-100k.inter"]],
        [_USERS, *tables["ml-100k.user"]],
        [_ITEMS, *items],
    )


def _table(data: bytes) -> list[list[str]]:
    """A recbole file's rows without the header that names columns and kinds."""
    return [line.split("\t") for line in data.decode("utf-8").splitlines()[1:]]


def _member(wheel: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(_FOLDER + name).file_size > _LARGEST:
                raise WrongInput(f"{wheel.name}: {name} is larger than ML-100K")
            data = archive.read(_FOLDER + name)
    except (OSError, KeyError, zipfile.BadZipFile):
        raise WrongInput(f"{wheel.name}: is not a recbole wheel with ML-100K in it") from None
    _check(data, _MEMBERS[name], f"{wheel.name}: {name}")
    return data


def _bare(dest: Path, file: Path) -> DataSource:
    """ML-100K from its ratings alone."""
    if file.stat().st_size > _LARGEST:
        raise WrongInput(f"{file.name}: is larger than ML-100K")
    data = file.read_bytes().replace(b"\r\n", b"\n")
    if data.startswith(b"user_id:token"):
        data = data.partition(b"\n")[2]
    _check(data, _ROWS_SHA256, file.name)
    rows: list[Row] = [line.split("\t") for line in data.decode("ascii").splitlines()]
    users, items = (sorted({str(row[place]) for row in rows}, key=int) for place in (0, 1))
    return write_source(
        dest,
        f"ml-100k from {file.name}",
        [_RATINGS, *rows],
        [_USERS, *((user, "", "", "", "") for user in users)],
        [_ITEMS, *((item, "", "", "") for item in items)],
    )


def _check(data: bytes, expected: str, what: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise WrongInput(f"{what}: is not ML-100K as pinned (SHA-256 {found[:12]}…, expected {expected[:12]}…)")


def _cached_wheel(say: Callable[[str], None]) -> Path:
    """The wheel in FEDREC_CACHE, downloaded when it is not there; its hash is checked every time."""
    cache = Path(os.environ.get("FEDREC_CACHE") or Path.home() / ".cache" / "fedrec")
    try:
        return _wheel_in(cache, say)
    except OSError as error:
        raise WrongInput(
            f"{cache}: cannot be written ({error.strerror}); set FEDREC_CACHE to a folder that can"
        ) from None


def _wheel_in(cache: Path, say: Callable[[str], None]) -> Path:
    kept = cache / _WHEEL
    if kept.is_file() and hashlib.sha256(kept.read_bytes()).hexdigest() == _WHEEL_SHA256:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    say("downloading ML-100K (2 MB)")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        _download(Path(folder))
        try:
            data = (Path(folder) / _WHEEL).read_bytes()
        except FileNotFoundError:
            raise Unreachable(f"pip brought another file than {_WHEEL}") from None
    _check(data, _WHEEL_SHA256, "the downloaded recbole wheel")
    put(kept, data)
    return kept


def _download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "recbole==1.2.1", "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"]
    try:
        done = subprocess.run([*command, "--dest", str(folder)], capture_output=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is None or done.returncode != 0:
        raise Unreachable("pip cannot fetch the recbole 1.2.1 wheel that holds ML-100K; is there a network?")
