"""Features go into the jail when the plan names them, and a rehearsal computes the very same bytes."""

import numpy as np
import pandas as pd
import pytest
from small_site import ITEMS, approved, make_site, train

import fedrec
from fedrec import models
from fedrec.exchange.wire import encode, sha256
from fedrec.institution import policy
from fedrec.institution.evidence.replay import replay
from fedrec.institution.intake import take_in_folder
from fedrec.institution.jobs import Jobs
from fedrec.institution.perform import perform
from fedrec.institution.site import Site

GENRES = ["war|love", "love", "", "war", "art", "art|war", "love", "war"]
FEATURES = (
    '[features.user]\nage = { type = "number" }\njob = { type = "text" }\n[features.item]\ngenre = { type = "tags" }\n'
)
COLUMNS = ("user.age", "user.job=b", "user.age?", "item.genre=war", "item.genre?")
MODELS = [
    models.Hybrid(COLUMNS, factors=4),
    models.Logistic(COLUMNS, (30.0, 0.5, 0.1, 0.4, 0.1), (8.0, 1.0, 1.0, 1.0, 1.0)),
    models.FeatureSums(COLUMNS, least=1),
]
SETTINGS = {
    "code": """
class Blind:
    def __init__(self, columns=()):
        pass

    def init(self, n_items, seed):
        return {"v": np.zeros(2)}

    def fit_site(self, rows, shared, private):
        return {"v": np.array([rows.users is not None, rows.items is not None], dtype=float)}, {}

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))
"""
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The small site, whose rows say age and job of each user, and whose catalogue says the genres."""
    root = tmp_path_factory.mktemp("features")
    make_site(root).close()
    frame = pd.read_csv(root / "a" / "data" / "ratings.csv")
    number = frame["user"].str[-1].astype(int)
    frame["age"] = (20.5 + number).where(number != 3)
    frame["job"] = number.map(lambda user: "ab"[user % 2])
    frame.to_csv(root / "a" / "data" / "ratings.csv", index=False)
    pd.DataFrame({"item": ITEMS, "genre": GENRES}).to_csv(root / "items.csv", index=False)
    with open(root / "a" / "schema.toml", "a") as file:
        file.write(FEATURES)
    take_in_folder(root / "a")
    return root


@pytest.fixture
def jobs(folder, jail):
    site = Site.open(folder / "a")
    made = Jobs(site, jail)
    yield made
    made.close()
    site.close()


def rehearsal(folder):
    """The same tables as DataFrames."""
    frame = pd.read_csv(folder / "a" / "data" / "ratings.csv")
    kinds = {"age": "number", "job": "text", "genre": "tags"}
    made = fedrec.simulate(
        {"a": frame}, catalogue=ITEMS, user_features={"a": frame}, item_features=pd.read_csv(folder / "items.csv"),
        kinds=kinds,
    )  # fmt: skip
    return made._rows["a"]


def trained(site, jobs, plan):
    answer = train(site, jobs, approved(site, plan.spec), plan.built.init(len(ITEMS), 0).tensors)
    assert answer["status"] == "done", answer
    return answer["passport"]["sha256"]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_jail_and_the_rehearsal_give_the_same_bytes(model, folder, jobs):
    plan = fedrec.Plan(model=model, rounds=1, train=("p1",))
    done = perform(plan.spec, "train", "p1", rehearsal(folder), model.init(len(ITEMS), 0).tensors, {})
    assert any(array.any() for array in done.update.values())
    assert trained(jobs._site, jobs, plan) == sha256(encode(done.update))


def test_outcomes_are_evaluated_in_the_jail_as_in_the_rehearsal_and_replayed_to_the_same_bytes(folder, jobs, jail):
    plan = fedrec.Plan(model=MODELS[1], rounds=1, train=("p1",), evaluate=True, seed=3)
    jobs._site.audit.start("a", {}, {"data_version": jobs._site.store.version, **policy.keep(jobs._site)})
    row, start = approved(jobs._site, plan.spec), plan.built.init(len(ITEMS), 0).tensors
    assert train(jobs._site, jobs, row, start, run="judged")["status"] == "done"
    answer = train(jobs._site, jobs, row, start, run="judged", kind="evaluate")
    rehearsed = perform(plan.spec, "evaluate", "p1", rehearsal(folder), start, {}).numbers
    assert answer["numbers"] == rehearsed
    assert 0 < rehearsed["federated"]["users"] < 30
    assert [one.same for one in replay(folder / "a", "judged", jail)] == [True, True]


@pytest.mark.parametrize(
    ("columns", "sees"),
    [([], [0, 0]), (5, [0, 0]), (["item.genre=war"], [0, 1]), (["user.age", "item.genre=war"], [1, 1])],
)
def test_a_job_sees_the_features_that_its_plan_names_and_no_others(columns, sees, jobs):
    plan = fedrec.Plan(code=SETTINGS["code"], settings={"columns": columns}, rounds=1, train=("p1",))
    wanted = encode({"v": np.array(sees, dtype=np.float32)})
    assert trained(jobs._site, jobs, plan) == sha256(wanted)
