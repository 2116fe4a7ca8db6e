"""What the owner reads of an update's leaks, measured on his rows; and a site that lets no thin pairs leave exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_site import SCIENTIST, START, approved, make_site, own, recipe, train

from fedrec.core.interactions import Interactions
from fedrec.errors import Refused
from fedrec.exchange.plan import Tensor
from fedrec.exchange.wire import decode
from fedrec.institution.decisions import Decisions
from fedrec.institution.jobs import Jobs
from fedrec.institution.leak import thin_cells
from fedrec.institution.site import Site
from fedrec.institution.told import told
from fedrec.models import from_plan


def some(users=60, items=40, seed=0):
    """Users of 5 to 19 items."""
    rng = np.random.default_rng(seed)
    item = [rng.choice(items, rng.integers(5, 20), replace=False) for _ in range(users)]
    user = np.repeat(np.arange(users), [len(own) for own in item]).astype(np.int32)
    found = np.concatenate(item).astype(np.int32)
    return Interactions(user, found, np.ones(len(user), np.float32), None, users, items + 10)


def asks(name, settings=None, **more):
    plan = recipe("ease", **more)
    plan = replace(plan, name=name, model={"name": name, **(settings or {})})
    return replace(plan, leaves={key: Tensor.parse(text) for key, text in from_plan(plan.model).leaves().items()})


def noisy(epsilon):
    plan = asks("popularity", {"clip": 1.0}, runs=1, evaluate=False, publish=False)
    return replace(plan, privacy={"sum": "plain", "epsilon": epsilon, "delta": 1e-5})


@pytest.mark.parametrize("name", ["ease", "sequential", "usercf", "popularity", "mf", "ials"])
def test_without_noise_a_person_is_told_every_time_and_the_owner_reads_it(name):
    found = told(asks(name), some(), seconds=60)
    assert (found.right, found.tries) == (100, 100)
    assert "is right in 100 of 100 tries; 50 is guessing" in " ".join(found.lines(summed=False))
    assert "sum with the other institutions only" in " ".join(found.lines(summed=True))


def test_exact_counts_show_every_item_that_was_touched_and_no_other():
    found = told(asks("popularity"), some())
    assert (found.shown, found.true) == (found.touched, found.touched)
    assert 30 < found.touched < 50


def test_with_an_epsilon_the_attack_is_little_better_than_guessing():
    """The bound of epsilon 0.5 is 62 of 100 tries in the long run; 75 would be chance in one of two hundred."""
    weak, strong = (told(noisy(epsilon), some(), seconds=60) for epsilon in (0.5, 50.0))
    assert weak.right <= 75 < strong.right
    assert weak.thin is None


def test_one_person_is_tried_however_little_time_there_is_and_own_code_is_not():
    assert told(asks("ease"), some(), seconds=0).tries == 4
    assert told(own(), some()) is None


def test_cells_are_counted_in_parts_as_in_one(monkeypatch):
    whole = thin_cells(some(), 5)
    monkeypatch.setattr("fedrec.institution.leak.AT_ONCE", 7)
    assert thin_cells(some(), 5) == whole


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_pair_of_films_of_one_person_does_not_leave_where_the_site_says_so(share, tmp_path, jail):
    site = make_site(tmp_path, f"thin_cells = {share}\n")
    if share < 1:
        with pytest.raises(Refused, match=r"data\.cells"):
            Decisions(site, None).check_submission(SCIENTIST, "", recipe())
    else:  # the control
        jobs, row = Jobs(site, jail), approved(site, recipe())
        answer = train(site, jobs, row, START)
        gram = decode(site.blobs.path("out", row.id, answer["passport"]["sha256"]).read_bytes())["gram"]
        assert (gram[np.triu_indices(8, 1)] == 1).any()  # a pair that stands for one person
        jobs.close()
    site.close()


def test_a_site_that_became_stricter_after_the_approval_refuses_the_release(tmp_path, jail):
    site = make_site(tmp_path, "thin_cells = 1.0\n")
    row = approved(site, recipe())
    site.close()
    toml = site.folder / "site.toml"
    toml.write_text(toml.read_text().replace("thin_cells = 1.0", "thin_cells = 0.2"))
    site = Site.open(site.folder)
    jobs = Jobs(site, jail)
    assert train(site, jobs, row, START)["code"] == "data.cells"
    jobs.close()
    site.close()


def test_such_a_site_takes_models_without_pairs_and_pairs_with_noise_and_no_own_code(tmp_path):
    site = make_site(tmp_path, "thin_cells = 0.0\nown_code = true\n")
    decide, account = Decisions(site, None), SCIENTIST
    decide.check_submission(account, "", asks("mf"))
    private = asks("private", {"most": 4}, runs=1, evaluate=False, publish=False)
    decide.check_submission(account, "", replace(private, privacy={"sum": "plain", "epsilon": 4.0, "delta": 1e-5}))
    for plan in (private, own()):
        with pytest.raises(Refused, match=r"data\.cells"):
            decide.check_submission(account, "", plan)
    site.close()
