"""At the institution's machine: the served model is bent towards its own users, and kept beside the others."""

from __future__ import annotations

import numpy as np
import pytest
from serving import COUNTS, serve, trained
from small_site import own, recipe

from fedrec.core.params import PrivateParams, SharedParams
from fedrec.errors import WrongInput
from fedrec.institution.audit import read
from fedrec.institution.intake import take_in_folder
from fedrec.institution.personalise import personalise
from fedrec.institution.published import Published
from fedrec.institution.recommending import Recommender
from fedrec.institution.work import top_items
from fedrec.models import Ease

MODEL = Ease(l2=200.0)


def with_others(site, others):
    """The model of this site's users and of others, by their Gram."""
    rows = site.store.rows()
    mine = MODEL.fit_site(rows, MODEL.init(8, 0), PrivateParams({}))[0]["gram"]
    return dict(MODEL.finish(MODEL.init(8, 0), SharedParams({"gram": mine + others})).tensors)


@pytest.fixture
def crowd(site):
    """Sixty users who stay in one half of the catalogue, and the Gram of 1600 others with one item of each half."""
    lines = [
        f"u{user},film-{user % 2 * 4 + (user // 2 + step) % 4},4,{step}\n" for user in range(60) for step in range(4)
    ]
    (site.folder / "data" / "ratings.csv").write_text("user,item,rating,timestamp\n" + "".join(lines))
    take_in_folder(site.folder)
    half = np.arange(8) // 4
    return np.where(half[:, None] != half, 100, 0).astype(np.float32) + 400 * np.eye(8, dtype=np.float32)


def opened(site):
    from dataclasses import replace

    from fedrec.institution.store import Store

    return replace(site, store=Store.open(site.state))


def test_an_institution_of_another_kind_gets_its_own_model_back_and_the_log_says_so(site, crowd):
    now = opened(site)
    base = serve(now, "ease", with_others(now, crowd), protocol="all")
    found, published = personalise(site.folder), Published(site.state)
    assert (found["verdict"], found["gamma"], found["number"]) == ("local", None, 2)
    assert "the institution's own is kept" in found["text"]
    assert [one["number"] for one in published.versions() if one["served"]] == [1]  # nothing is served by choosing
    published.use("2")
    assert published.current()["model"] == base  # what it was made from
    alone = SharedParams(trained(now, dict(recipe("ease").model)))
    lists = top_items(MODEL, now.store.rows(), alone, PrivateParams({}), 2)
    served = Recommender(site.folder)
    assert served.for_user("u0", 2).how == "list"
    place = served.users.index("u0")
    assert served.for_user("u0", 2).items == [served.items[item] for item in lists[place]]
    assert published.rollback()["number"] == 1
    done = [event["detail"] for event in read(site.folder, "personalise") if event["outcome"] == "done"]
    assert done == [{"verdict": "local", "gamma": "None", "number": 2}]


def test_where_the_shared_model_is_as_good_nothing_is_kept(site, crowd):
    """The control: the same crowd, and others of the same kind."""
    now = opened(site)
    mine = MODEL.fit_site(now.store.rows(), MODEL.init(8, 0), PrivateParams({}))[0]["gram"]
    serve(now, "ease", with_others(now, 10 * mine), protocol="all")
    found = personalise(site.folder)
    assert (found["verdict"], found["number"]) == ("shared", None)
    assert len(Published(site.state).versions()) == 1


def test_other_models_own_code_and_a_personal_one_are_refused(site, crowd):
    now = opened(site)
    serve(now, shared=COUNTS)
    with pytest.raises(WrongInput, match="popularity"):
        personalise(site.folder)
    serve(now, plan=own(publish=True), shared={"v": np.zeros(8)})
    with pytest.raises(WrongInput, match="own cannot"):
        personalise(site.folder)
    serve(now, "ease", with_others(now, crowd), protocol="all")
    Published(site.state).use(str(personalise(site.folder)["number"]))
    with pytest.raises(WrongInput, match="as they were published"):
        personalise(site.folder)
