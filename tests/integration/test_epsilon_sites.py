"""A plan with an epsilon over four real datasites: shown, cut, booked, noised and reported."""

from __future__ import annotations

import json

import numpy as np
import pytest
from real_sites import approved, command, fresh

import fedrec
from fedrec.exchange.accountant import epsilon_of
from fedrec.exchange.privacy import Privacy
from fedrec.institution.ledger import Ledger

pytestmark = pytest.mark.sites


def spent(site, request):
    ledger = Ledger(site.folder / "state" / "ledger.sqlite")
    try:
        return ledger.spent(request)
    finally:
        ledger.close()


def test_a_run_with_an_epsilon_is_shown_booked_noised_and_reported(federation, owners, sites):
    popular = fedrec.models.Popularity(clip=1.0)
    plan, open_ = (
        fresh(popular, privacy=privacy, train=("p1",), evaluate=True) for privacy in (Privacy(epsilon=4.0), None)
    )
    requests = approved(federation, owners, plan)
    shown = command("requests", "show", sites.all["aurora"].folder, requests.ids["aurora"])
    assert "for a customer of all 4 institutions it is epsilon 9." in shown.stdout  # mu of 4 releases: twice .918
    assert "this plan adds no noise" not in shown.stdout
    run = federation.train(plan)
    table = run.evaluate()
    assert set(table["scope"]) == {"federated"}
    assert run.log[-1]["epsilon"] < run.epsilon <= 4.0
    for name, site in sites.all.items():
        assert epsilon_of(spent(site, requests.ids[name]), 1e-5) == pytest.approx(run.epsilon)
    approved(federation, owners, open_)
    exact = federation.train(open_)
    off = run.shared["counts"] - exact.shared["counts"]
    assert off.std() == pytest.approx(2 * 1.14, rel=0.3)  # four sites, 1.14 each
    assert np.unique(off).size > 0.9 * off.size
    said = json.loads(
        command("requests", "show", sites.all["aurora"].folder, requests.ids["aurora"], "--json", "-").stdout
    )
    assert said["permit"]["epsilon"] == 4.0


def test_clipped_gradients_with_noise_under_the_secure_sum_are_trained_at_sites_that_have_no_torch(federation, owners):
    """The site's own process asks the model what a user adds at most; only the jail trains it."""
    noisy, exact = (
        fresh(fedrec.models.MF(factors=4, clip=1.0), rounds=2, privacy=privacy)
        for privacy in (Privacy("secure", epsilon=8.0), Privacy("secure"))
    )
    runs = []
    for plan in (noisy, exact):
        approved(federation, owners, plan)
        runs.append(federation.train(plan))
    assert runs[0].epsilon == pytest.approx(8.0, rel=1e-3)
    assert runs[1].epsilon is None
    assert np.abs(runs[0].shared["items"] - runs[1].shared["items"]).max() > 1e-3
