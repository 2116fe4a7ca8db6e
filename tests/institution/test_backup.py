"""A site that starts from an older copy of its state: what it knows no more. docs/security.md says it to the operator."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from small_site import OWNER, VECTOR, approved, make_site, own, recipe, submitted, train

from fedrec.errors import Refused
from fedrec.institution import audit
from fedrec.institution.decisions import Decisions
from fedrec.institution.jobs import Jobs
from fedrec.institution.site import Site


@pytest.fixture
def back(jail, tmp_path):
    """A backup after round 0; then a round, a revocation, an approval and a call; then the backup in their place."""
    site = make_site(tmp_path)
    jobs = Jobs(site, jail)
    decisions = Decisions(site, jobs)
    running, revoked, waiting = approved(site, own()), approved(site, recipe("popularity")), submitted(site, recipe())
    train(site, jobs, running, VECTOR, number=0, nonce="0" * 32)
    shutil.copytree(site.state, tmp_path / "backup")
    second = train(site, jobs, running, {"v": np.ones(8, np.float32)}, number=1, nonce="1" * 32)
    decisions.undo(OWNER, revoked.id, "not any more", lambda: True)
    decisions.approve(OWNER, waiting.id, {}, lambda: True)
    assert site.ledger.first_time(b"a call")
    newer = list(audit.read(site.audit.path))
    jobs.close()
    site.close()
    shutil.rmtree(site.state)
    shutil.copytree(tmp_path / "backup", site.state)
    again = Site.open(site.folder)
    jobs = Jobs(again, jail)
    again.ledger.void_pending()
    jobs.recover()
    yield again, jobs, running, revoked, waiting, second, newer
    jobs.close()
    again.close()


def test_what_came_after_the_backup_is_forgotten(back):
    site, jobs, running, revoked, waiting, second, newer = back
    # an approval is gone: the safe side
    with pytest.raises(Refused, match=r"permit\.missing"):
        jobs.permit_of(waiting.id)
    # a revocation is gone too: the operator has to say it again before the network is opened
    assert jobs.permit_of(revoked.id)["id"]
    # a call of that time is new again
    assert site.ledger.first_time(b"a call")
    # a round of that time was given back; the same task gives the same update, so the run goes on
    assert site.ledger.used(running.id) == {"train": 1}
    repeated = train(site, jobs, running, {"v": np.ones(8, np.float32)}, number=1, nonce="1" * 32)
    assert repeated["passport"] == second["passport"]
    # a round further on has no private parameters to start from
    later = train(site, jobs, running, {"v": np.full(8, 2, np.float32)}, number=3)
    assert (later["status"], later["code"]) == ("refused", "task.round")
    # the log is whole in itself: only another copy of it shows that there were two histories
    assert audit.verify(site.audit.path).verdict == "ok"
    older = list(audit.read(site.audit.path))
    both = min(len(older), len(newer))
    assert [one["hash"] for one in older[:both]] != [one["hash"] for one in newer[:both]]
    assert older[0] == newer[0]
