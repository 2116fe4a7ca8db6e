"""How often and how long: places of a key, tries to log in, cookies."""

from __future__ import annotations

import pytest

from fedrec.errors import Refused
from fedrec.institution.gate import PARALLEL, Gate, Nonces


def made(secret=b"s" * 32):
    return Gate("5" * 32, lambda _: None, lambda _: True, secret)


@pytest.fixture
def gate():
    return made()


def code_of(call, *given):
    try:
        call(*given)
    except Refused as refusal:
        return refusal.code
    return ""


def test_a_key_holds_four_places_and_no_more_and_gives_them_back(gate):
    places = [gate.place("k") for _ in range(PARALLEL)]
    for place in places:
        place.__enter__()
    with pytest.raises(Refused, match=r"gate\.rate"), gate.place("k"):
        pass
    with gate.place("other"):
        pass
    for place in places:
        place.__exit__(None, None, None)
    with pytest.raises(ZeroDivisionError), gate.place("k"):
        _ = 1 / 0
    assert gate._busy == {}


def test_ten_tries_to_log_in_within_a_minute_and_no_more(gate):
    assert [code_of(gate.login_allowed, "a@x.org") for _ in range(12)] == [""] * 10 + ["gate.rate"] * 2
    assert code_of(gate.login_allowed, "b@x.org") == ""


def test_a_cookie_is_of_its_key_site_and_time(gate):
    cookie = gate.cookie("ab" * 32)
    assert gate.cookie_is_of(cookie, "ab" * 32)
    key, end, mac = cookie.split(".")
    later = f"{key}.{int(end) + 9999}.{mac}"
    for bad in (
        "",
        ".",
        "..",
        cookie[:-1],
        cookie + "0",
        later,
        f"{key}.{end}.",
        f"{'cd' * 32}.{end}.{mac}",
        f"{key}.x.{mac}",
        "ä.1.ü",
    ):
        assert not gate.cookie_is_of(bad, "ab" * 32), bad
    assert not gate.cookie_is_of(cookie, "cd" * 32)
    assert not made(b"t" * 32).cookie_is_of(cookie, "ab" * 32)
    assert made().cookie_is_of(cookie, "ab" * 32)  # after a restart


def test_the_memory_of_tries_is_bounded(gate):
    for number in range(10_002):
        gate.login_allowed(f"{number}@x.org")
    assert len(gate._logins) <= 10_001
    assert code_of(gate.login_allowed, "10001@x.org") == ""


def test_a_nonce_is_fresh_once_per_key_and_forgotten_only_after_its_time():
    nonces = Nonces(seconds=60)
    assert [nonces.fresh("k", "1"), nonces.fresh("k", "1"), nonces.fresh("other", "1")] == [True, False, True]
    short = Nonces(seconds=0)
    assert all(short.fresh("k", str(number)) for number in range(2000))
    assert len(short._seen) < 1500
    assert not nonces.fresh("k", "1")
