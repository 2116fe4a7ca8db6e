"""What an owner reads: asked against allowed, facts, two columns; as text and as a cell that says the same."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner
from small_site import SCIENTIST, approved, own, recipe, submitted
from test_facts import BACK, GOOD, PLANTED, before

from fedrec import Plan
from fedrec.cli.requests import requests
from fedrec.config.site import Limits
from fedrec.exchange.plan import PlanText, Tensor
from fedrec.institution.diff import approved_before, changes, plan_facts, text_of_diff, two_columns
from fedrec.institution.leak import thin_cells
from fedrec.institution.review import against_caps, details, html_of, text_of
from fedrec.institution.review_parts import parts_of
from fedrec.institution.told import Told
from fedrec.models import Logistic

NOW = "2026-05-17T12:00:00Z"


def shown(site, row):
    old = approved_before(row, site.ledger.requests())
    return details(row, site.ledger.used(row.id), NOW, 8, site.config.limits, old)


def code_plan(code, **more):
    return replace(own(**more), model={"name": "own", "class": "MyModel", "code": code})


def test_the_first_plan_of_a_family_and_then_two_columns(site):
    first = submitted(site, recipe())
    assert shown(site, first)["diff"] is None
    assert "first plan of its family" in text_of(shown(site, first))
    approved(site, recipe(days=29))
    late = replace(submitted(site, recipe(model={"l2": 5.0})), submitted_at="2999-01-01T00:00:00Z")
    told = shown(site, late)
    assert [fact["text"] for fact in told["facts"]["plan"]] == ["days was 29, is 30", "model.l2 was 200.0, is 5.0"]
    text = text_of(told)
    assert re.search(r"~ +\d+ l2 = 200\.0 +\| +\d+ l2 = 5\.0", text)
    assert "LOOK CLOSELY" in text
    page = html.unescape(html_of(told))
    assert "l2 = 200.0" in page
    assert "l2 = 5.0" in page


def test_only_the_same_scientists_approved_plan_of_that_name_before_it_counts(site):
    old = approved(site, recipe(days=1))
    rows = site.ledger.requests()
    new = replace(old, id="z" * 32, decision="waiting", submitted_at="2999-01-01T00:00:00Z", decided_at="")
    assert approved_before(new, [*rows, new]) == old
    for change in (
        {"key": "9" * 64},
        {"name": "other"},
        {"decision": "revoked"},
        {"submitted_at": "3000-01-01T00:00:00Z"},
    ):
        assert approved_before(new, [replace(old, **change)]) is None
    newer = replace(old, id="y" * 32, decided_at="2998-01-01T00:00:00Z")
    assert approved_before(new, [newer, old]) == newer


def test_the_two_columns_rebuild_both_texts():
    left, right = "a\nb\nc\nd\ne\nf\ng\nh\ni", "a\nb\nX\nd\ne\nf\ng\nh\nj\nk"
    rows = two_columns(left, right)
    assert [row["mark"] for row in rows] == [" ", " ", "~", " ", " ", ".", " ", " ", "~", "+"]
    for side, text in (("old", left), ("new", right)):
        for number, line in (row[side] for row in rows if row[side]):
            assert text.split("\n")[number - 1] == line
    assert two_columns(left, left) == []
    assert [row["mark"] for row in two_columns("a\nb", "a")] == [" ", "-"]
    long = text_of_diff(two_columns("x" * 300, "y" * 300))
    assert sum(line.count("x") for line in long) == 300
    assert sum(line.count("y") for line in long) == 300


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"leaves": {"gram": Tensor.parse("float32 items x items"), "more": Tensor.parse("float32 99")}},
            "leaves.more is new",
        ),
        ({"leaves": {}}, "leaves.gram is gone"),
        ({"model": {"name": "ease", "l2": 2.0}}, "model.l2 was 200.0, is 2.0"),
        ({"model": {"name": "ease", "l2": 200}}, "model.l2 was 200.0, is 200"),
        ({"aggregator": {"name": "mean"}}, "aggregator.name was sum, is mean"),
        ({"purpose": "Q"}, "purpose was P, is Q"),
        ({"train": ("all",)}, "train was ('p1',), is ('all',)"),
        ({"publish": False}, "publish was True, is False"),
    ],
)
def test_every_changed_term_is_said(change, said):
    assert any(text.startswith(said) for text in changes(recipe(), replace(recipe(), **change)))
    assert list(changes(recipe(), recipe())) == []


def test_an_array_that_the_recipe_does_not_have_and_look_alikes_in_the_plan_are_red():
    extra = replace(recipe(), leaves={**recipe().leaves, "users": Tensor.parse("float32 9000")})
    assert [(fact.level, fact.what) for fact in plan_facts(extra, None)] == [("red", "extra")]
    assert [fact.what for fact in plan_facts(replace(recipe(), purpose="Bеtter"), None)] == ["look-alike"]
    assert [fact.what for fact in plan_facts(replace(recipe(), model={"name": "eаse"}), None)] == [
        "look-alike",
        "recipe",
    ]
    for which in ("ease", "popularity", "mf"):
        assert plan_facts(recipe(which), None) == []


def test_asked_against_the_sites_caps():
    limits = Limits(
        train=3,
        evaluate=2,
        days=7,
        megabytes=0.0001,
        models=("mf",),
        publish=False,
        purposes=("teaching",),
        settings={"own.rate": (0, 1), "mf.rate": (0, 1)},
    )
    rows = {one["what"]: one for one in against_caps(own(rounds=9, days=30), limits, 8)}
    assert {what: rows[what]["verdict"] for what in rows} == {
        "train tasks": "above", "evaluate tasks": "within", "days": "cut", "megabytes an update": "within",
        "model": "above", "use": "above", "own.rate": "above", "own code": "above", "publish": "within", "users behind a row": "", "minutes a job": "",
        "memory of a job": "", "what a run keeps": "", "hours of the day, UTC": "",
    }  # fmt: skip
    assert rows["train tasks"] == {"what": "train tasks", "asked": "9", "cap": "3", "verdict": "above"}
    roomy = against_caps(recipe(), Limits(), 8)
    assert {one["verdict"] for one in roomy} == {"within", ""}


REQUESTS = {name: code for name, (code, _) in PLANTED.items()}


def flagged(plan, old=None):
    from fedrec.institution.facts import facts_of

    found = [*plan_facts(plan, old), *(facts_of(plan.own_code) if plan.own_code else [])]
    return [fact for fact in found if fact.level != "green"]


def test_twenty_whole_requests_with_one_planted_problem_each():
    """trust.md's list: what is planted is in the code, in the arrays, in the terms or in the letters."""
    good = code_plan(GOOD)
    ease = recipe()
    extra = {**good.leaves, "more": Tensor.parse("float32 9000")}
    planted = [
        (code_plan(code), None)
        for name, code in REQUESTS.items()
        if name not in ("payload", "message", "eval", "ligature")
    ]
    planted += [
        (replace(good, leaves=extra), good),  # one array more than was approved
        (code_plan(GOOD.replace("rate=0.1", "rate=0.9")), good),  # a changed threshold in the code
        (replace(ease, model={"name": "ease", "l2": 0.001}), ease),  # a changed threshold in the plan
        (replace(ease, purpose="Rеcommend"), None),  # a Cyrillic e
    ]
    assert len(planted) == 20
    for plan, _ in planted:
        PlanText.parse(plan.text())
    assert sum(bool(flagged(plan, old)) for plan, old in planted) >= 19
    clean = [good, ease, recipe("popularity"), recipe("mf"), own()]
    assert [fact for plan in clean for fact in flagged(plan)] == []


def test_text_and_page_say_the_same_and_the_page_runs_nothing(site):
    nasty = before('x = "<script>alert(1)</script><img src=y onerror=z>"', BACK) + "    # </td> & 'quoted'\n"
    plan = replace(code_plan(nasty + "print = 1\n"), purpose='<b onload="x">P</b>')
    told = shown(site, submitted(site, plan, SCIENTIST))
    text, page = text_of(told), html_of(told)
    assert set(re.findall(r"<([a-z0-9]+)", page)) == {"div", "table", "tr", "td", "h4"}
    assert set(re.findall(r"<[a-z0-9]+ ([a-z]+)=", page)) == {"style"}
    words = html.unescape(re.sub(r"<[^>]*>", "\n", page))
    for line in nasty.splitlines():
        assert line.strip() in words
        assert line in text
    for fact in [*told["facts"]["plan"], *told["facts"]["code"]]:
        assert fact["text"] in words
        assert fact["text"] in text
    assert {*text.split()} - {*words.split()} <= {"!", "|"}
    for one in told["limits"]:
        assert one["what"] in words
        assert one["what"] in text


@pytest.mark.parametrize("kind", ["first", "changed", "own code", "measured"])
def test_every_line_of_every_part_is_on_the_page(kind, site):
    """Own code and the two columns have their cells on the page, the other parts the very lines."""
    approved(site, recipe())
    plan = {
        "first": recipe("popularity"),
        "changed": recipe(model={"l2": 5.0}),
        "own code": code_plan(PLANTED["print"][0]),
        "measured": replace(recipe("mf"), aggregator={"name": "weighted-mean", "by": "data-quality"}),
    }[kind]
    told = shown(site, approved(site, plan))
    parts, page = parts_of(told), html_of(told)
    words = html.unescape(re.sub(r"<[^>]*>", "\n", page))
    titles = ["", "What will leave", "What could be learnt about one customer", "What runs"]
    assert [part.title for part in parts][:4] == titles
    assert parts[-1].title.startswith("Permit ")
    for part in parts:
        assert part.title in words
        assert part.title in text_of(told)
        for line in part.lines:
            assert part.kind or line in words, line
            assert {*line.split()} - {*words.split()} <= {"!", "|"}, line


def test_features_that_a_plan_reads_and_counts_of_outcomes_are_said(site):
    ranked = text_of(shown(site, submitted(site, recipe(evaluate=True))))
    assert "hit counts, as sums over users" in ranked
    assert "reads the features" not in ranked
    plan = Plan(model=Logistic(("user.age", "item.genre=war")), train=("p1",), evaluate=True)
    told = shown(site, submitted(site, plan.spec))
    assert "reads the features of users and items that columns names" in text_of(told)
    assert "user.age" in text_of(told)
    for text in (text_of(told), html.unescape(html_of(told))):
        assert "100 bins of the predicted probability" in text
        assert "hit counts" not in text


def test_a_plan_with_a_gram_says_how_many_of_its_numbers_stand_for_few_users(site):
    """Six users with five films each: only one film has five users or more."""
    row = submitted(site, recipe())
    few, all_ = thin_cells(site.store.rows(), 5)
    assert 0 < few < all_ <= 36  # of 8 films: 8 of one, 28 of two
    told = details(row, {}, NOW, 8, site.config.limits, None, told=Told(100, 100, thin=(few, all_)))
    assert f"of the {all_} numbers for an item or two, {few} stand for fewer than 5 users" in text_of(told)
    assert "numbers for an item" not in text_of(details(row, {}, NOW, 8, site.config.limits, None))


def test_the_owner_s_command_counts_them_for_plans_with_a_gram_only(site):
    for plan, said in ((recipe(), True), (recipe("popularity"), False)):
        request = submitted(site, plan).id
        done = CliRunner().invoke(requests, ["show", str(site.folder), request])
        assert done.exit_code == 0, done.output
        assert ("numbers for an item or two" in done.output) == said
