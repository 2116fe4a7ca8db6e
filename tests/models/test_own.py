"""The scientist's own code: what is accepted, what is kept from leaking between rounds, and that it is the recipe."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from federating import deal, federate

from fedrec import models
from fedrec.core.params import PrivateParams, SharedParams
from fedrec.errors import WrongInput
from fedrec.models import OwnModel

OWN = Path(models.__file__).parents[1].joinpath("examples/my_factors.py").read_text(encoding="utf-8")
SMALL = """
class Counts:
    def __init__(self, scale=1.0):
        self.scale, self.calls = scale, 0
    def init(self, n_items, seed):
        return {"counts": np.zeros(n_items)}
    def fit_site(self, rows, shared, private):
        self.calls += 1
        shared["counts"] += 1e6
        return {"counts": self.scale * np.bincount(rows.item, minlength=rows.n_items)}, {"calls": [self.calls]}
    def score(self, rows, shared, private):
        return np.tile(shared["counts"], (rows.n_users, 1))
"""


def test_plain_torch_code_equals_the_built_in_recipe(checkerboard):
    sites = deal(checkerboard, 3)
    own, ours = (federate(m, sites, rounds=22) for m in (OwnModel(OWN, {"factors": 16}), models.MF(factors=16)))
    assert abs(own[0]["items"] - ours[0]["items"]).max() <= 1e-5
    for mine, recipe in zip(own[1], ours[1], strict=True):
        assert abs(mine["users"] - recipe["users"]).max() <= 1e-5


def test_the_example_is_about_thirty_lines_and_names_no_fedrec():
    body = OWN[OWN.index("class MyFactors") :]
    assert len(body.splitlines()) <= 42
    assert "fedrec" not in body


def test_the_class_alone_works_as_taken_from_a_notebook_cell(checkerboard):
    cell = OWN[OWN.index("class MyFactors") :]
    assert OwnModel(cell).init(4, 1)["items"].tobytes() == OwnModel(OWN).init(4, 1)["items"].tobytes()


def test_nothing_runs_until_the_model_is_used():
    text = "open('/nowhere/at/all')\n" + SMALL
    model = OwnModel(text)
    assert model.class_name == "Counts"
    with pytest.raises(FileNotFoundError):
        model.init(3, 0)


def test_lines_in_a_traceback_are_those_of_the_plan():
    model = OwnModel(SMALL.replace("self.calls += 1", "raise KeyError"))
    with pytest.raises(KeyError) as caught:
        model.fit_site(rows(), model.init(5, 0), PrivateParams({}))
    last = caught.traceback[-1]
    assert (last.frame.code.raw.co_filename, last.lineno + 1) == ("<plan>", 8)


def test_inputs_stay_settings_arrive_and_the_instance_remembers_nothing():
    model, start = OwnModel(SMALL, {"scale": 2.0}), SharedParams({"counts": np.zeros(5, dtype=np.float32)})
    for _ in range(2):
        contribution, private = model.fit_site(rows(), start, PrivateParams({}))
        np.testing.assert_array_equal(contribution["counts"], [2, 2, 4, 0, 0])
        assert contribution["counts"].dtype == np.float32
        assert private["calls"] == [1]
    assert not start["counts"].any()


def test_without_finish_the_step_is_added_and_with_one_it_decides():
    shared, merged = SharedParams({"counts": np.ones(2, np.float32)}), SharedParams({"counts": np.ones(2, np.float32)})
    assert OwnModel(SMALL).finish(shared, merged)["counts"].tolist() == [2, 2]
    text = SMALL + "    def finish(self, shared, merged):\n        return {'counts': 7 * merged['counts']}\n"
    assert OwnModel(text).finish(shared, merged)["counts"].tolist() == [7, 7]


def test_torch_tensors_are_taken_for_arrays():
    text = SMALL.replace("np.zeros(n_items)", "torch.zeros(n_items, requires_grad=True)")
    assert OwnModel(text).init(3, 0)["counts"].tolist() == [0, 0, 0]


def test_dataclasses_and_future_annotations_work():
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\n"
        + SMALL.lstrip().replace(
            "    def __init__(self, scale=1.0):\n        self.scale, self.calls = scale, 0\n",
            "    scale: float = 1.0\n    calls: int = 0\n",
        )
    )
    assert (
        OwnModel(text, {"scale": 3.0}).fit_site(rows(), OwnModel(text).init(5, 0), PrivateParams({}))[0]["counts"][0]
        == 3
    )


def test_random_numbers_are_the_same_at_a_site_and_in_simulation_and_the_callers_are_left_alone():
    noisy = SMALL.replace(
        "np.bincount(rows.item, minlength=rows.n_items)", "np.random.random(5) * torch.rand(5).numpy()"
    )
    model, shared = OwnModel(noisy), SharedParams({"counts": np.zeros(5, np.float32)})
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = model.fit_site(rows(), shared, PrivateParams({}))[0]["counts"]
    after = random.random(), np.random.random(), float(torch.rand(1))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert after == (random.random(), np.random.random(), float(torch.rand(1)))
    np.testing.assert_array_equal(first, model.fit_site(rows(), shared, PrivateParams({}))[0]["counts"])
    later = SharedParams({"counts": np.ones(5, np.float32)})
    assert (first != model.fit_site(rows(), later, PrivateParams({}))[0]["counts"]).any()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "exactly one class at its top level, it holds 0"),
        (SMALL + "class Other: pass\n", "it holds 2"),
        ("class A:\n    def init(self): ...\n", "class A in own code lacks fit_site, score"),
        ("class A:\n  def (\n", "no Python, line 2"),
        ("class A: \0", "no Python"),
    ],
)
def test_text_that_cannot_be_a_model_is_refused_before_it_runs(text, says):
    with pytest.raises(WrongInput, match=says):
        OwnModel(text)


def test_a_plan_must_name_the_class_that_its_code_holds():
    assert models.create("own", {"class": "Counts", "code": SMALL, "scale": 2.0}) == OwnModel(SMALL, {"scale": 2.0})
    with pytest.raises(WrongInput, match="holds the class Counts"):
        models.create("own", {"class": "Other", "code": SMALL})
    with pytest.raises(WrongInput, match="needs the setting `code`"):
        models.create("own", {})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('}, {"calls": [self.calls]}', "}", "must return .contribution, private."),
        ('{"counts": np.zeros(n_items)}', "np.zeros(n_items)", "arrays by name"),
        ("(rows.n_users, 1)", "(rows.n_users + 1, 1)", "score has shape"),
    ],
)
def test_answers_of_another_form_are_named(old, new, says):
    model = OwnModel(SMALL.replace(old, new))
    with pytest.raises(WrongInput, match=says):
        a_round(model)


def a_round(model):
    shared = model.init(5, 0)
    return model.score(rows(), *model.fit_site(rows(), shared, PrivateParams({})))


def test_leaves_are_found_from_two_catalogues():
    assert OwnModel(OWN, {"factors": 8}).leaves() == {"items": "float32 items x 8"}
    with pytest.raises(WrongInput, match="a side of counts"):
        OwnModel(SMALL.replace("np.zeros(n_items)", "np.zeros(2 * n_items)")).leaves()


def rows():
    from fedrec.core.interactions import Interactions

    item = np.array([0, 1, 2, 2], dtype=np.int32)
    user = np.array([0, 0, 0, 1], dtype=np.int32)
    return Interactions(user, item, np.ones(4, np.float32), np.arange(4, dtype=np.int64), 2, 5)
