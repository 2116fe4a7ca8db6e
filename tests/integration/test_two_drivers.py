"""Two scientists' programs that run one approved plan at the same time, from the same start, at one site."""

from __future__ import annotations

import threading

import pytest
from real_sites import ADA_PASSWORD, approved, fresh

import fedrec
from fedrec.demo.sites import SCIENTIST

pytestmark = pytest.mark.sites


def test_both_get_their_model_and_their_evaluation(solo, alone, its_owner):
    """They send and delete the same models; what one has used up, the other sends again."""
    plan = fresh(runs=2, rounds=1, evaluate=True)
    approved(alone, its_owner, plan)
    other, found, barrier = fedrec.connect(solo.consortium, SCIENTIST, ADA_PASSWORD), {}, threading.Barrier(2)

    def drive(federation, name):
        barrier.wait()
        run = federation.train(plan, on_round=lambda *_: None)
        found[name] = (run.model_sha256, str(run.evaluate()))

    threads = [threading.Thread(target=drive, args=given) for given in ((alone, "first"), (other, "second"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {"first", "second"}
    assert found["first"] == found["second"]
