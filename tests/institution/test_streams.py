"""An update on its way out: the log says how many bytes of it left, whether the caller stays or hangs up."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import closing

import pytest
from audit_logs import opened

from fedrec.errors import Refused
from fedrec.institution.audit import read
from fedrec.institution.streams import Act, Guarded

SIZE = 10 * Guarded.chunk_size + 7


def fetched(folder, live=lambda: None, stays=SIZE):
    """The fetch's outcome in the log and the bytes that a caller got who hangs up after `stays` of them."""
    file, got = folder / "update", 0
    file.write_bytes(b"x" * SIZE)

    async def call(log):
        left = asyncio.Event()

        async def receive():
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            nonlocal got
            got += len(message.get("body", b""))
            if got >= stays:
                left.set()
                await asyncio.sleep(0.01)  # the server learns of it while it waits for the next part

        act = Act(log.act("ada@x.example", "scientist", "fetch", "ab" * 32))
        await Guarded(file, live, act)({"type": "http", "method": "GET", "headers": []}, receive, send)

    with closing(opened(folder / "log")) as log, contextlib.suppress(Refused):  # the log says which
        asyncio.run(call(log))
    event = [one for one in read(folder / "log", "fetch") if one["outcome"] != "intent"][-1]
    return event["outcome"], event["detail"]["bytes"], got


def test_a_whole_update_is_done(tmp_path):
    assert fetched(tmp_path) == ("done", SIZE, SIZE)


@pytest.mark.parametrize("stays", [1, 3 * Guarded.chunk_size])
def test_a_caller_who_hangs_up_leaves_an_incomplete_fetch_with_the_bytes_that_he_got(tmp_path, stays):
    outcome, said, got = fetched(tmp_path, stays=stays)
    assert (outcome, said) == ("incomplete", got)
    assert stays <= got < SIZE


def test_a_permit_that_ends_stops_it_with_the_bytes_that_had_left(tmp_path):
    looked = []

    def live():
        looked.append(1)
        if len(looked) == 3:
            raise Refused("permit.revoked", "x", "y")

    assert fetched(tmp_path, live) == ("permit.revoked", 2 * Guarded.chunk_size, 2 * Guarded.chunk_size)
