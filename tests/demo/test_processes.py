"""How the demo starts and ends other processes: what they know of this one, and what an interrupt can break off."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedrec.demo.sites import PASSED_ON, SiteProcess, start_fedrec, undisturbed


def told(pid: int) -> dict[str, str]:
    """A process's environment as the kernel shows it; for a moment after its start that is nothing."""
    while not (shown := Path(f"/proc/{pid}/environ").read_bytes()):
        time.sleep(0.001)
    words = shown.decode().split("\0")
    return dict(word.split("=", 1) for word in words if word)


def of_a_command(_: Path) -> dict[str, str]:
    process = start_fedrec(["data", "--help"], FEDREC_USER="own")
    try:
        return told(process.pid)
    finally:
        process.communicate()


def of_a_site(folder: Path) -> dict[str, str]:
    (folder / "state").mkdir()
    site = SiteProcess("nobody", folder, "owner@nobody.example", "own")
    site.start()
    try:
        assert site.process is not None
        return told(site.process.pid)
    finally:
        site.stop(kill=True)


@pytest.mark.parametrize(("of", "given"), [(of_a_command, "FEDREC_USER"), (of_a_site, "FEDREC_OWNER_PASSWORD")])
def test_a_process_gets_its_own_secret_and_of_this_one_s_words_only_the_listed(
    of: Callable[[Path], dict[str, str]], given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    foreign = ["FEDREC_PASSWORD", "FEDREC_PASSWORD_FILE", "FEDREC_USER", "FEDREC_OWNER_PASSWORD", "FEDREC_CACHE"]
    foreign += ["FEDREC_OF_THE_FUTURE", "FEDREC_CA_FILE", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "JUPYTER_TOKEN"]
    for name in foreign:
        monkeypatch.setenv(name, "canary-7203")
    monkeypatch.setenv("LC_TIME", "C")
    seen = of(tmp_path)
    assert seen.pop(given) == "own"
    assert seen.pop("LC_TIME") == "C"
    assert seen == {name: value for name, value in os.environ.items() if name in PASSED_ON}
    assert not [name for name in PASSED_ON if name.startswith("FEDREC_")]


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch):
    """SIGTERM and SIGHUP raise what Ctrl-C raises, as in `fedrec`."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_waits_for_the_end_of_what_must_be_done_whole(ending):
    done = []

    def clear_up() -> None:
        for step in range(3):
            signal.raise_signal(ending)
            done.append(step)

    with pytest.raises(KeyboardInterrupt):
        clear_up()
    assert done == []  # the control: unprotected, it is broken off
    with pytest.raises(KeyboardInterrupt), undisturbed():
        clear_up()
    assert done == [0, 1, 2]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(ending)  # afterwards all is as before


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
