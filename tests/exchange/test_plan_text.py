"""The plan: one text, one fingerprint; what is read is what runs."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import Refused
from fedrec.exchange.plan import PlanText, Tensor, fingerprint
from fedrec.exchange.plan_form import check_text

CODE = """class Mine:
    # a comment with "quotes" and 'quotes' and \\n a backslash
    def init(self, n_items, seed):
        return {"v": [1.0]}
"""
PLAN = PlanText(
    "ease",
    "Better lists",
    {"name": "ease", "l2": 200.0},
    {"name": "sum"},
    {"gram": Tensor("float32", ("items", "items"))},
)
TEXT = """
name = "ease"
purpose = "Better lists"
fedrec = ""
seed = 0

[asks]
train = ["all"]
rounds = 1
runs = 1
evaluate = false
publish = false
days = 30

[leaves]
gram = "float32 items x items"

[aggregator]
name = "sum"

[model]
name = "ease"
l2 = 200.0
"""


def test_the_text_is_this_one():
    assert PLAN.text() == TEXT
    assert PlanText.parse(TEXT) == PLAN
    assert fingerprint(TEXT) == hashlib.sha256(TEXT.encode("utf-8")).hexdigest()


names = st.from_regex(r"[a-z][a-z0-9_]{0,30}", fullmatch=True)
visible = st.characters(exclude_categories=("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
texts = st.text(visible | st.just("\n"), max_size=40)
literals = st.recursive(
    st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
sizes = st.lists(st.just("items") | st.integers(1, 10**6), max_size=3).map(tuple)
norms = st.none() | st.floats(0, exclude_min=True, allow_infinity=False)
tensors = st.builds(Tensor, st.sampled_from(["float16", "float32", "float64", "int32", "int64"]), sizes, norms)
protocols = st.permutations(["p1", "p2", "p3", "all"]).flatmap(
    lambda all_: st.integers(1, 4).map(lambda n: tuple(all_[:n]))
)
plans = st.builds(
    PlanText,
    name=names,
    purpose=texts,
    model=st.dictionaries(names, literals, max_size=3).map(lambda rest: {**rest, "name": "ease"}),
    aggregator=st.dictionaries(names, literals, max_size=2).map(lambda rest: {**rest, "name": "sum"}),
    leaves=st.dictionaries(names, tensors, max_size=3),
    rounds=st.integers(1, 100_000),
    train=protocols,
    runs=st.integers(1, 100_000),
    evaluate=st.booleans(),
    publish=st.booleans(),
    days=st.integers(1, 100_000),
    seed=st.integers(0, 2**32 - 1),
    fedrec=texts,
    use=st.just("") | st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True),
)


@settings(max_examples=300, deadline=None)
@given(plans)
def test_text_and_parse_are_inverse_or_the_text_is_refused(plan):
    try:
        text = plan.text()
    except Refused as refusal:
        assert refusal.code == "request.form"  # noqa: PT017  three quotes in a row, or an invisible character
        return
    again = PlanText.parse(text)
    assert again.text() == text
    assert _lists(again) == _lists(plan)


def _lists(plan):
    return replace(plan, model=dict(plan.model), aggregator=dict(plan.aggregator))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda b: b.decode("latin1")))
def test_any_other_text_is_refused_and_nothing_else_is_raised(text):
    for given_ in (text, TEXT + text + "\n", text + TEXT, TEXT.replace("200.0", text)):
        if given_ == TEXT:
            continue
        try:
            plan = PlanText.parse(given_)
        except Refused as refusal:
            assert refusal.code == "request.form"  # noqa: PT017
        else:
            assert plan.text() == given_


def test_own_code_stands_in_the_text_as_it_is():
    plan = replace(PLAN, name="mine", model={"name": "own", "class": "Mine", "code": CODE})
    assert CODE in plan.text()
    assert plan.text().endswith("code = '''\n" + CODE + "'''\n")
    assert PlanText.parse(plan.text()).own_code == CODE
    assert PLAN.own_code is None


def test_a_trailing_space_is_another_fingerprint():
    mine = {"name": "own", "class": "Mine", "code": CODE}
    spaced = {**mine, "code": CODE.replace("[1.0]}", "[1.0]} ")}
    first, second = replace(PLAN, model=mine).text(), replace(PLAN, model=spaced).text()
    assert len(second) == len(first) + 1
    assert fingerprint(first) != fingerprint(second)
    with pytest.raises(Refused, match="not in the form"):
        PlanText.parse(TEXT.replace('"ease"\n', '"ease" \n'))


INVISIBLE = {
    "carriage return": "\r",
    "tab": "\t",
    "null": "\0",
    "escape": "\x1b",
    "delete": "\x7f",
    "next line": "\x85",
    "soft hyphen": "\xad",
    "right-to-left override": "\u202e",
    "left-to-right mark": "\u200e",
    "isolate": "\u2066",
    "zero-width space": "\u200b",
    "zero-width joiner": "\u200d",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "private use": "\ue000",
    "tag letter": "\U000e0061",
    "unassigned": "\u0378",
    "Hangul filler": "\u3164",
    "half-width Hangul filler": "\uffa0",
    "Hangul choseong filler": "\u115f",
    "grapheme joiner": "\u034f",
    "variation selector": "\ufe0f",
    "supplementary selector": "\U000e0101",
    "no-break space": "\xa0",
    "em space": "\u2003",
    "ideographic space": "\u3000",
    "Mongolian selector": "\u180b",
    "blank Braille": "\u2800",
}


@pytest.mark.parametrize("name", INVISIBLE)
def test_an_invisible_character_is_refused_wherever_it_stands(name):
    char = INVISIBLE[name]
    with pytest.raises(Refused, match=rf"request\.form.*U\+{ord(char):04X}"):
        check_text(TEXT + char)
    for wrong in (
        replace(PLAN, purpose=f"Better{char}lists"),
        replace(PLAN, model={"name": "own", "class": "Mine", "code": CODE.replace("comment", f"com{char}ment")}),
        replace(PLAN, model={"name": "ease", "note": f"a{char}b"}),
    ):
        with pytest.raises(Refused, match=r"request\.form"):
            wrong.text()


@pytest.mark.parametrize("escaped", ["\\t", "\\r", "\\u0000", "\\u001b[2J", "\\u202e", "\\u200b"])
def test_an_invisible_character_cannot_come_in_as_an_escape(escaped):
    """The text would look clean, and the value, shown to the owner or put into the permit, would not be."""
    with pytest.raises(Refused, match=r"request\.form"):
        PlanText.parse(TEXT.replace("Better lists", f"Better{escaped}lists"))


def test_visible_letters_of_any_script_are_fine():
    plan = replace(PLAN, purpose="Bessere Listen für alle — лучшие списки, 更好的推荐 ☃")
    assert PlanText.parse(plan.text()) == plan


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"purpose": 'a """ b'}, None),  # three quotes are escaped one by one by JSON, so the text has none
        ({"model": {"name": "own", "class": "M", "code": 'class M:\n    """doc"""\n'}}, "three double quotes"),
        ({"model": {"name": "own", "class": "M", "code": "class M:\n    '''doc'''\n"}}, "three single quotes"),
        ({"model": {"name": "ease", "l2": float("nan")}}, "finite"),
        ({"model": {"name": "ease", "l2": float("inf")}}, "finite"),
        ({"model": {"name": "ease", "l2": None}}, "NoneType"),
        ({"model": {"name": "ease", "l2": {"a": 1}}}, "dict"),
        ({"model": {"name": "ease", "l2": b"1"}}, "bytes"),
        ({"model": {"name": "ease", "L2": 1.0}}, "a-z"),
        ({"model": {"name": "ease", "l2 = 1\nx": 1.0}}, "a-z"),
        ({"leaves": {"a b": Tensor("float32", ())}}, "a-z"),
    ],
)
def test_what_cannot_be_written_is_refused_when_it_is_written(change, says):
    plan = replace(PLAN, **change)
    if says is None:
        assert PlanText.parse(plan.text()) == plan
        return
    with pytest.raises(Refused, match=rf"request\.form.*{says}"):
        plan.text()


@pytest.mark.parametrize("tail", ['"""', "\\"])
def test_three_double_quotes_and_a_trailing_backslash_are_refused(tail):
    with pytest.raises(Refused, match=r"request\.form"):
        PlanText.parse(TEXT + tail)


WRONG = {
    "name = 1": 'name = "ease"',
    'name = "Ease"': 'name = "ease"',
    'name = "e-x"': 'name = "ease"',
    "seed = -1": "seed = 0",
    "seed = 4294967296": "seed = 0",
    "seed = true": "seed = 0",
    "seed = 0.0": "seed = 0",
    "rounds = 0": "rounds = 1",
    "rounds = 1.0": "rounds = 1",
    "rounds = true": "rounds = 1",
    "rounds = 100001": "rounds = 1",
    "rounds = 01": "rounds = 1",
    "rounds = +1": "rounds = 1",
    "rounds = nan": "rounds = 1",
    'rounds = "1"': "rounds = 1",
    "runs = -1": "runs = 1",
    "days = 0": "days = 30",
    "days = 3_0": "days = 30",
    "evaluate = 1": "evaluate = false",
    'publish = "true"': "publish = false",
    "train = []": 'train = ["all"]',
    'train = ["all", "all"]': 'train = ["all"]',
    'train = ["p4"]': 'train = ["all"]',
    'train = "all"': 'train = ["all"]',
    "train = [[1]]": 'train = ["all"]',
    "train = 1": 'train = ["all"]',
    'gram = "float32 items x 0"': 'gram = "float32 items x items"',
    'gram = "float32 items x -1"': 'gram = "float32 items x items"',
    'gram = "complex64 items"': 'gram = "float32 items x items"',
    'gram = "float32 items  x 2"': 'gram = "float32 items x items"',
    'gram = "float32 02"': 'gram = "float32 items x items"',
    "gram = 1": 'gram = "float32 items x items"',
    "l2 = inf": "l2 = 200.0",
    "l2 = 2e2": "l2 = 200.0",
    "l2 = 1979-05-27": "l2 = 200.0",
    "l2 = {a = 1}": "l2 = 200.0",
    "l2 = 0xff": "l2 = 200.0",
    "l2 = 200.0 # more": "l2 = 200.0",
    "l2 = 200.0\nl2 = 1.0": "l2 = 200.0",
    '[modes]\nname = "ease"': '[model]\nname = "ease"',
    "[aggregator]\nname = 5": '[aggregator]\nname = "sum"',
    "extra = 1\nseed = 0": "seed = 0",
    'use = ""\nfedrec = ""': 'fedrec = ""',
    'use = "Any"\nfedrec = ""': 'fedrec = ""',
    'use = 5\nfedrec = ""': 'fedrec = ""',
    'fedrec = ""\nuse = "research"': 'fedrec = ""',
    '"float32 items x items norm 0.0"': '"float32 items x items"',
    '"float32 items x items norm -1.0"': '"float32 items x items"',
    '"float32 items x items norm inf"': '"float32 items x items"',
    '"float32 items x items norm nan"': '"float32 items x items"',
    '"float32 items x items norm 1"': '"float32 items x items"',
    '"float32 items x items norm 1.0 norm 2.0"': '"float32 items x items"',
    '"float32 items x items norm "': '"float32 items x items"',
    "days = 30\nmore = 1": "days = 30",
    "[asked]": "[asks]",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_text_that_says_something_else_or_says_it_otherwise_is_refused(wrong):
    right = WRONG[wrong]
    assert TEXT.count(right) >= 1
    with pytest.raises(Refused, match=r"request\.form"):
        PlanText.parse(TEXT.replace(right, wrong, 1))


@pytest.mark.parametrize("deep", ["[" * 200_000, "[" * 400 + "]" * 400, "{a=" * 100_000, "1" * 5000])
def test_deep_or_endless_values_are_refused_and_do_not_crash(deep):
    with pytest.raises(Refused, match=r"request\.form"):
        PlanText.parse(TEXT.replace("200.0", deep))


def test_counts_and_sizes_are_worked_out():
    plan = replace(PLAN, rounds=25, runs=3, train=("p1", "p3"))
    assert plan.train_tasks == 150
    tensor = Tensor.parse("float16 items x 64")
    assert (tensor.sized(10), tensor.nbytes(10), str(tensor)) == ((10, 64), 1280, "float16 items x 64")
    assert Tensor("float64", ()).nbytes(10) == 8
    assert str(Tensor.parse("float32 items x 64 norm 10.0")) == "float32 items x 64 norm 10.0"
    assert Tensor.parse(str(Tensor("float64", (), 0.5))) == Tensor("float64", (), 0.5)
