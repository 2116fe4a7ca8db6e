"""A plan whose updates are too large once encrypted is refused with the size, by the site that it is submitted to."""

from __future__ import annotations

import pytest
from small_site import make_site

import fedrec
from fedrec.demo.plans import of_size
from fedrec.errors import Refused
from fedrec.exchange.privacy import Privacy
from fedrec.institution.limits import check_limits
from fedrec.scientist.plan import Plan


@pytest.fixture
def config(tmp_path):
    site = make_site(tmp_path, "megabytes = 16")
    site.close()
    return site.config


def of(model, sum_="ckks", **more):
    return Plan(model=model, privacy=Privacy(sum_), **more).spec


def test_a_dense_gram_is_refused_encrypted_with_what_it_needs_and_taken_masked(config):
    """1682² counts are 691 ciphertexts of 57,344 bytes; masked, they have 4 bytes each."""
    with pytest.raises(Refused, match=r"plan.bytes: an update has 39624704 bytes, 16 MB allowed"):
        check_limits(of(fedrec.models.Ease()), config, 1682)
    check_limits(of(fedrec.models.Ease(), "secure"), config, 1682)
    check_limits(of(fedrec.models.Ease()), config, 1000)


def test_a_gradient_model_and_popularity_are_taken_encrypted(config):
    plans = [
        (of(fedrec.models.MF(factors=64)), 1682),
        (of(fedrec.models.MF(factors=64), fixed={"items": (16, 32)}), 1682),
        (of(fedrec.models.Popularity()), 15_000),
    ]
    for plan, n_items in plans:
        check_limits(plan, config, n_items)
        assert plan.travels(n_items) < 16e6


def test_the_demo_takes_the_models_that_fit_and_mf_where_none_does():
    """The blend of 1682 items has two arrays of 1682²: 277 MB; a site's own cap is 64 MB unless it says otherwise."""
    encrypted = Privacy("ckks")
    assert of_size(["default", "ease", "mf"], {}, 1682, 64, encrypted) == ("ease", "mf")
    assert of_size(["default"], {}, 1682, 64, encrypted) == ("mf",)
    assert of_size(["default", "ease", "mf"], {}, 1682, 64, Privacy("secure")) == ("default", "ease", "mf")
