"""Overspending a site's epsilon by runs at the same moment. Control: without the transaction it works."""

from __future__ import annotations

import threading

import pytest
from small_site import approved, make_site
from test_spent import noisy

from fedrec.errors import Refused
from fedrec.exchange.accountant import cost_within, epsilon_of
from fedrec.institution import ledger as ledgers
from fedrec.institution.permit import Task

LIMIT, THREADS = 2.0, 8


@pytest.mark.parametrize("defence", [True, False])
def test_runs_at_once_never_spend_more_than_the_site_allows(defence, tmp_path, monkeypatch):
    """Eight plans, each of half the limit's cost, in one moment: two fit."""
    site = make_site(tmp_path, f"epsilon_limit = {LIMIT}\n")
    rows = [approved(site, noisy(1.9, f"plan_{number}", runs=9)) for number in range(THREADS)]
    cost, barrier, refused = cost_within(LIMIT, 1e-5) // 2, threading.Barrier(THREADS), []
    if not defence:  # read first, look later, write without looking again: what a ledger outside the transaction does
        monkeypatch.setattr(ledgers.spent, "spend", lambda rows, *booking: _late(site, rows, *booking))

    def run(number):
        one = Task("train", "r", 0, "p1", "0" * 64, f"{number:032x}")
        barrier.wait()
        try:
            if not defence:
                known[number] = site.ledger.spent()
                barrier.wait()
            site.ledger.reserve(one.key(rows[number].id), rows[number].id, one, site.now(), site.here, cost)
        except Refused as refusal:
            refused.append(refusal.code)

    known: dict[int, int] = {}

    def _late(site, rows, job, request, cost, *_):
        if epsilon_of(min(known.values()) + cost, 1e-5) <= LIMIT:
            rows("INSERT INTO spent VALUES (?,?,?,?)", job, request, cost, "")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = epsilon_of(site.ledger.spent(), 1e-5)
    if defence:
        assert spent <= LIMIT
        assert refused == ["ledger.epsilon"] * (THREADS - 2)
    else:
        assert spent > LIMIT
        assert refused == []
    site.close()
