"""Two versions of the data of which one user changed: the difference of their exact sums is that user's rows."""

from __future__ import annotations

import numpy as np
import pytest
from small_site import START, approved, make_site, recipe, train

from fedrec.exchange.wire import decode
from fedrec.institution.intake import take_in_folder
from fedrec.institution.jobs import Jobs
from fedrec.institution.site import Site


def released(site, row, answer):
    return decode(site.blobs.path("out", row.id, answer["passport"]["sha256"]).read_bytes())["gram"]


def newer(site, lines: str) -> Site:
    """The same institution, once these rows have come in."""
    path = site.folder / "data" / "ratings.csv"
    path.write_text(path.read_text() + lines)
    site.close()
    take_in_folder(site.folder)
    return Site.open(site.folder)


def gram(site, jail, name):
    row, jobs = approved(site, recipe(name=name)), Jobs(site, jail)
    try:
        answer = train(site, jobs, row, START)
        return answer.get("code") or released(site, row, answer)
    finally:
        jobs.close()


@pytest.mark.parametrize("least", [3, 1])
def test_an_exact_sum_of_a_version_in_which_few_users_changed_does_not_leave(least, tmp_path, jail):
    site = make_site(tmp_path, f"users_apart = {least}\n")
    before = gram(site, jail, "first")
    assert gram(site, jail, "second") is not None  # the same version may leave again
    site = newer(site, "new,film-1,4,1\nnew,film-2,4,2\nnew,film-3,4,3\nnew,film-6,4,9\n")
    after = gram(site, jail, "third")
    if least == 3:
        assert after == "data.apart"
        more = "".join(f"new-{n},film-{k},4,{k}\n" for n in range(2) for k in range(4))
        site = newer(site, more)
        assert isinstance(gram(site, jail, "fourth"), np.ndarray)  # three users are enough
    else:  # the control: the newcomer's films stand in the difference
        assert np.flatnonzero(np.diag(after - before)).tolist() == [1, 2]  # the last two are held out
    site.close()


def test_nobody_else_can_make_what_is_kept_of_the_users(tmp_path, jail):
    site = make_site(tmp_path, "users_apart = 3\n")
    gram(site, jail, "first")
    (kept,) = (site.state / "released").glob("*.npy")
    assert np.load(kept).shape == (6, 2)
    assert b"canary" not in kept.read_bytes()
    site.close()
    other = make_site(tmp_path / "other", "users_apart = 3\n")
    gram(other, jail, "first")
    (theirs,) = (other.state / "released").glob("*.npy")
    assert not set(np.load(kept).ravel()) & set(np.load(theirs).ravel())  # the same users and rows, another key
    other.close()
