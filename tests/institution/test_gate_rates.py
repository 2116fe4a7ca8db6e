"""How often and how long: places of a key, tries to log in, cookies."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from fedrec.errors import Refused
from fedrec.institution.gate import (
    CALLS,
    LOGINS_FROM,
    MAX_CALL,
    OPEN,
    PARALLEL,
    PLAIN,
    SMALL,
    STRANGERS,
    Buckets,
    Gate,
    Nonces,
)


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


def test_ten_tries_of_an_email_within_a_minute_and_no_more(gate):
    tries = [code_of(gate.login_allowed, "a@x.org", f"10.0.0.{number}") for number in range(12)]
    assert tries == [""] * 10 + ["gate.rate"] * 2
    assert code_of(gate.login_allowed, "b@x.org", "10.0.0.1") == ""


def test_an_address_tries_sixty_emails_and_no_more(gate):
    tries = [code_of(gate.login_allowed, f"{number}@x.org", "10.0.0.1") for number in range(int(LOGINS_FROM[0]) + 2)]
    assert tries[: int(LOGINS_FROM[0])] == [""] * int(LOGINS_FROM[0])
    assert tries[-1] == "gate.rate"
    assert code_of(gate.login_allowed, "b@x.org", "10.0.0.2") == ""


def test_plain_reads_of_an_address_are_limited_and_no_other_addresses(gate):
    said = [code_of(gate.asked, "a") for _ in range(int(PLAIN[0]) + 50)]
    assert said[: int(PLAIN[0])] == [""] * int(PLAIN[0])
    assert (said[-1], code_of(gate.asked, "b")) == ("gate.rate", "")


def test_places_of_calls_and_of_blobs_are_counted_apart(gate):
    with ExitStack() as held:
        for most in (PARALLEL, OPEN):
            for _ in range(most):
                held.enter_context(gate.place("k", most))
            with pytest.raises(Refused, match=rf"gate\.rate: more than {most}"), gate.place("k", most):
                pass
    assert gate._busy == {}


def test_an_accounts_calls_are_limited_and_no_other_accounts(gate):
    said = [code_of(gate.call_allowed, "k") for _ in range(int(CALLS[0]) + 100)]
    assert said[: int(CALLS[0])] == [""] * int(CALLS[0])
    assert said[-1] == "gate.rate"
    assert code_of(gate.call_allowed, "other") == ""


def test_an_address_of_strangers_is_read_little_and_then_told_to_wait(gate):
    assert gate.largest("a") == MAX_CALL
    for _ in range(int(STRANGERS[0] / (1 + MAX_CALL / SMALL)) + 1):  # each counts as 32
        gate.stranger("a", MAX_CALL)
    assert gate.largest("a") == SMALL
    assert code_of(gate.stranger, "a") == "gate.rate"
    assert (gate.largest("b"), code_of(gate.stranger, "b")) == (MAX_CALL, "")


def test_a_bucket_gives_its_burst_then_its_rate_and_never_more_than_is_full():
    now = [100.0]
    bucket = Buckets(3, 2, lambda: now[0])
    assert [bucket.take("k") for _ in range(4)] == [True, True, True, False]
    now[0] += 0.4  # 0.8 tokens
    assert not bucket.take("k")
    now[0] += 0.1  # one
    assert [bucket.take("k"), bucket.take("k")] == [True, False]
    now[0] += 3600
    assert [bucket.take("k") for _ in range(4)] == [True, True, True, False]
    assert bucket.take("other", 13)  # may take more than there is: ten in debt, five seconds
    now[0] += 5.4
    assert not bucket.take("other")
    now[0] += 0.1
    assert bucket.take("other")


def test_buckets_forget_the_one_used_longest_ago():
    bucket = Buckets(1, 0.0, lambda: 0.0)
    assert [bucket.take("first"), bucket.take("second")] == [True, True]
    for number in range(Buckets.NAMES - 2):
        bucket.take(str(number))
    assert not bucket.take("first")  # asked again, so it is the newest now
    bucket.take("more")  # second goes
    assert [bucket.left("first"), bucket.left("second")] == [0, 1]
    assert len(bucket._known) == Buckets.NAMES


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


def test_a_nonce_is_fresh_once_per_key_and_forgotten_only_after_its_time():
    nonces = Nonces(seconds=60)
    assert [nonces.fresh("k", "1"), nonces.fresh("k", "1"), nonces.fresh("other", "1")] == [True, False, True]
    short = Nonces(seconds=0)
    assert all(short.fresh("k", str(number)) for number in range(2000))
    assert len(short._seen) < 1500
    assert not nonces.fresh("k", "1")
