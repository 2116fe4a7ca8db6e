"""fedrec.Plan: a recipe or a class of one's own, whose source reaches the owner as it runs."""

from __future__ import annotations

import ast
import inspect
import linecache

import numpy as np
import pytest
from own_classes import Documented, OneLiners, Texts

import fedrec
from fedrec import aggregation, models
from fedrec.config import RunConfig
from fedrec.core.interactions import Interactions
from fedrec.errors import Refused, WrongInput
from fedrec.exchange.plan import PlanText
from fedrec.exchange.request import check, write
from fedrec.institution.perform import perform
from fedrec.scientist.plan import source_of
from fedrec.scientist.runfile import plan_of
from fedrec.scientist.runs import Run
from fedrec.simulation import SimulatedFederation


def rows():
    """Two users: films 0 and 1; film 1 and 2."""
    user, item = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 1, 2], np.int32)
    return Interactions(user, item, np.ones(4, np.float32), np.arange(4, dtype=np.int64), 2, 3)


def trained(plan):
    """What the plan's text makes at a site."""
    text = check(write(plan.text, plan.spec.name))[1]
    shared = models.from_plan(text.model).init(3, 0)
    return perform(text, "train", "all", rows(), shared.tensors, {}).update["v"].tolist()


def test_docstrings_become_comments_and_the_class_runs_as_before():
    text = source_of(Documented)
    assert '"""' not in text
    assert "'''" not in text
    for words in (
        "# Counts films.",
        "    # A second paragraph with 'quotes'",
        "        # One line.",
        "        # other",
        "# a comment stays",
    ):
        assert words in text, words
    assert '"A docstring in single quotes stays."' in text
    plan = fedrec.Plan(code=Documented, settings={"weight": 3.0}, aggregator=fedrec.aggregation.Mean())
    assert text in plan.text
    assert trained(plan) == [3, 6, 3]  # films touched by one, two and one users, weighed with 3
    assert trained(fedrec.Plan(code=Documented)) == [2, 4, 2]


def test_statements_beside_a_docstring_stay():
    text = source_of(OneLiners)
    ast.parse(text)
    assert [node.name for node in ast.parse(text).body[0].body if isinstance(node, ast.FunctionDef)] == [
        "__init__",
        "init",
        "fit_site",
        "score",
    ]
    assert trained(fedrec.Plan(code=OneLiners)) == [1, 1, 1]


def test_the_text_of_a_class_is_the_class_but_for_its_docstrings():
    def bare(tree):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                first = node.body[0]
                if (
                    isinstance(first, ast.Expr)
                    and isinstance(first.value, ast.Constant)
                    and isinstance(first.value.value, str)
                ):
                    node.body = node.body[1:]
                node.body = [part for part in node.body if not isinstance(part, ast.Pass)] or [ast.Pass()]
        return ast.dump(tree)

    for cls in (Documented, OneLiners):
        assert bare(ast.parse(source_of(cls))) == bare(ast.parse(inspect.getsource(cls)))


def test_a_text_between_three_quotes_that_is_no_docstring_is_said_and_not_changed():
    with pytest.raises(WrongInput, match="own code: write texts with single quotes"):
        fedrec.Plan(code=Texts)


CELL = '''import numpy as np
from dataclasses import dataclass

@dataclass
class FromNotebook:
    """A class in a cell."""
    height: float = {height}

    def init(self, n_items, seed):
        return {{"v": np.zeros(n_items)}}

    def fit_site(self, rows, shared, private):
        return {{"v": np.full(rows.n_items, self.height)}}, private

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))

FromNotebook(5)
'''


@pytest.fixture
def notebook(monkeypatch):
    """Runs cells as IPython does: in the main module, each under a name of its own, its source in linecache."""
    space = {"__name__": "__main__"}

    def run(*cells):
        for number, cell in enumerate(cells):
            name = f"<ipython-input-{number}>"
            monkeypatch.setitem(linecache.cache, name, (len(cell), None, cell.splitlines(keepends=True), name))
            exec(compile(cell, name, "exec"), space)
        return space

    return run


def test_the_cell_that_made_the_class_is_taken_with_its_decorators(notebook):
    old, new = CELL.format(height=1.0), CELL.format(height=2.5)
    cls = notebook(old, "x = 1", new)["FromNotebook"]
    text = source_of(cls)
    assert text.startswith("@dataclass\nclass FromNotebook:\n    # A class in a cell.\n    height: float = 2.5\n")
    assert "FromNotebook(5)" not in text


def test_a_class_of_a_notebook_runs_at_the_site(notebook):
    cell = CELL.format(height=1.5).replace("@dataclass\n", "").replace("height: float", "height").replace("(5)", "()")
    assert trained(fedrec.Plan(code=notebook(cell)["FromNotebook"])) == [1.5, 1.5, 1.5]


def test_a_class_without_a_source_is_said_plainly(notebook):
    notebook("x = 1")
    with pytest.raises(WrongInput, match="the source of Made is not known"):
        source_of(type("Made", (), {"__module__": "__main__"}))


def test_a_plan_read_from_its_text_is_the_same_plan():
    for plan in (
        fedrec.Plan(
            model=models.Ease(l2=50.0),
            train=("p1", "p3"),
            runs=2,
            evaluate=True,
            publish=True,
            days=3,
            purpose="Ü",
            seed=9,
        ),
        fedrec.Plan(code=Documented, settings={"weight": 3.0}, rounds=4, name="mine"),
        fedrec.Plan(model=models.MF(factors=4), aggregator=fedrec.aggregation.Mean()),
    ):
        again = fedrec.Plan.from_text(plan.text)
        assert (again.text, again.fingerprint, again.merges) == (plan.text, plan.fingerprint, plan.merges)


# plans


def test_a_plan_says_everything_that_is_wrong_when_it_is_made():
    with pytest.raises(WrongInput, match="either a model or code"):
        fedrec.Plan()
    with pytest.raises(WrongInput, match="either a model or code"):
        fedrec.Plan(model=models.Ease(), code=Documented)
    with pytest.raises(WrongInput, match="no Python"):
        fedrec.Plan(code="class M:\n  def")
    with pytest.raises(WrongInput, match="lacks fit_site, score"):
        fedrec.Plan(code="class M:\n    def init(self, n_items, seed):\n        return {}\n")
    with pytest.raises(Refused, match=r"request\.form"):
        fedrec.Plan(model=models.Ease(), purpose="invisible \u200b")
    with pytest.raises(Refused, match=r"request\.form"):
        fedrec.Plan(code=source_of(Documented).replace("# One line.", "#\tOne line."))


@pytest.mark.parametrize(
    "asks",
    [
        {"rounds": -1},
        {"rounds": 100_001},
        {"rounds": 1.5},
        {"rounds": True},
        {"runs": 0},
        {"days": 0},
        {"train": ()},
        {"train": ("p4",)},
        {"train": ("p1", "p1")},
        {"name": "Ease"},
        {"name": "a-b"},
        {"name": "x" * 32},
        {"seed": -1},
        {"seed": 2**32},
        {"evaluate": 1},
        {"publish": "yes"},
    ],
    ids=str,
)
def test_a_plan_that_no_site_could_read_is_refused_when_it_is_made(asks):
    with pytest.raises(Refused, match=r"request\.form"):
        fedrec.Plan(model=models.Ease(), **asks)


def test_a_plan_takes_what_fits_its_model():
    plan = fedrec.Plan(model=models.Ease(l2=50.0), train=("p1", "p3"), evaluate=True)
    assert (plan.spec.rounds, plan.spec.aggregator, plan.spec.train) == (1, {"name": "sum"}, ("p1", "p3"))
    assert plan.spec.leaves.keys() == {"gram"}
    assert PlanText.parse(plan.text).text() == plan.text
    assert plan.fingerprint == fedrec.Plan(model=models.Ease(l2=50.0), train=("p1", "p3"), evaluate=True).fingerprint
    assert plan.fingerprint != fedrec.Plan(model=models.Ease(l2=50.5), train=("p1", "p3"), evaluate=True).fingerprint


def test_a_run_file_with_every_table_is_the_plan_of_the_same_values(tmp_path):
    (tmp_path / "run.toml").write_text(
        'consortium = "c.toml"\nname = "mine"\npurpose = "P"\nprotocol = "p1"\nrounds = 9\n[model]\nname = "mf"\n'
        '[aggregator]\nname = "yogi"\nlr = 0.1\ninner = "trimmed-mean"\ninner_trim = 2\n'
        '[local]\nupdate = "parameters"\nepochs = 5\nproximal = 0.1\n'
        '[schedule]\nname = "buffered"\nsize = 3\n[stop]\npatience = 4\n'
    )
    plan = fedrec.Plan(
        model=models.MF(), name="mine", purpose="P", train=("p1",), rounds=9,
        aggregator=aggregation.Yogi(lr=0.1, inner=aggregation.TrimmedMean(2)),
        local=models.LocalEpochs(5, proximal=0.1), schedule=aggregation.Buffered(3), stop=aggregation.Stop(patience=4),
    )  # fmt: skip
    assert plan_of(RunConfig.load(tmp_path / "run.toml")).text == plan.text


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('[schedule]\nname = "hourly"\n', "unknown schedule 'hourly'; one of synchronous, sampled"),
        ('[schedule]\nname = "sampled"\nk = 0\n', "1 or more"),
        ("[local]\nepochs = 5\n", "'parameters'"),
        ("[stop]\nrounds = 5\n", "allowed: patience"),
        ('[aggregator]\nname = "middle"\n', "unknown aggregator"),
    ],
)
def test_a_wrong_table_of_a_run_file_is_refused(table, says, tmp_path):
    head = 'consortium = "c.toml"\nname = "mine"\npurpose = "P"\n[model]\nname = "mf"\n'
    (tmp_path / "run.toml").write_text(head + table)
    with pytest.raises(WrongInput, match=says):
        plan_of(RunConfig.load(tmp_path / "run.toml"))


def test_a_scalar_array_of_own_code_is_sent_with_the_shape_it_declares():
    text = (
        source_of(Documented)
        .replace('"v": np.zeros(n_items)', '"v": np.zeros(())')
        .replace('"v": self.weight * rows.matrix().toarray().sum(0)', '"v": np.array(4.0)')
    )
    plan = fedrec.Plan(code=text, aggregator=fedrec.aggregation.Mean(), rounds=1)
    run = Run.start(plan, SimulatedFederation({"a": rows()}, 3)).finish()
    assert run.shared["v"].shape == ()
    assert float(run.shared["v"]) == 4.0  # shared 0 + merged 4


def test_use_and_norms_stand_in_the_text_and_come_back():
    plan = fedrec.Plan(model=models.Popularity(), use="research", norms={"counts": 10.0})
    assert 'use = "research"\n' in plan.text
    assert 'counts = "float32 items norm 10.0"\n' in plan.text
    assert fedrec.Plan.from_text(plan.text).text == plan.text
    with pytest.raises(WrongInput, match="no array gram"):
        fedrec.Plan(model=models.Popularity(), norms={"gram": 1.0})
    with pytest.raises(Refused, match=r"request\.form"):
        fedrec.Plan(model=models.Popularity(), use="Any thing")


def test_a_part_of_a_plan_may_be_given_as_its_table():
    given = fedrec.Plan(
        model={"name": "mf", "factors": 4},
        aggregator={"name": "yogi", "lr": 0.1, "inner": "mean"},
        schedule={"name": "quorum", "least": 2},
        stop={"patience": 3},
        local={"epochs": 2},
        train=("p1",),
    )
    meant = fedrec.Plan(
        model=models.MF(factors=4),
        aggregator=aggregation.Yogi(lr=0.1, inner=aggregation.Mean()),
        schedule=aggregation.Quorum(least=2),
        stop=aggregation.Stop(patience=3),
        local=models.LocalEpochs(2),
        train=("p1",),
    )
    assert given.text == meant.text


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"model": "ease"}, "model='ease'"),
        ({"model": models.Ease}, "model="),
        ({"aggregator": "adam"}, "aggregator='adam'"),
        ({"aggregator": {"name": "adamant"}}, "unknown aggregator 'adamant'"),
        ({"aggregator": {"lr": 0.1}}, "unknown aggregator None"),
        ({"aggregator": aggregation.Stop()}, "no aggregator"),
        ({"schedule": {"name": "quorum", "most": 2}}, "quorum has no setting most"),
        ({"schedule": "quorum"}, "schedule='quorum'"),
        ({"stop": 3}, "stop=3"),
        ({"stop": {"patients": 3}}, "stop has no setting patients"),
        ({"local": 5}, "local=5"),
        ({"local": {"epoch": 5}}, "local has no setting epoch"),
    ],
    ids=str,
)
def test_a_part_that_is_none_says_which(part, says):
    with pytest.raises(WrongInput, match=says):
        fedrec.Plan(**{"model": models.MF(factors=4), **part})
