"""Twenty requests with one planted problem each, of which at least nineteen must be flagged; five without must not."""

from __future__ import annotations

import pathlib

import pytest

import fedrec.examples
from fedrec.institution.facts import AMBER, GREEN, RED, facts_of
from fedrec.institution.lookalikes import look_alikes

GOOD = """import numpy as np


class MyModel:
    # Popularity that learns slowly.
    def __init__(self, rate=0.1):
        self.rate = rate

    def init(self, n_items, seed):
        return {"taste": np.zeros(n_items)}

    def fit_site(self, rows, shared, private):
        counts = np.bincount(rows.item, minlength=rows.n_items)
        gradient = shared["taste"] - counts / max(1, len(rows))
        return {"taste": gradient}, {"rounds": private.get("rounds", np.zeros(1)) + 1}

    def score(self, rows, shared, private):
        return np.tile(shared["taste"], (rows.n_users, 1))
"""
COUNTS = "        counts = np.bincount(rows.item, minlength=rows.n_items)\n"
BACK = '        return {"taste": gradient}, {'


def before(line, where=COUNTS):
    return GOOD.replace(where, f"        {line}\n{where}")


PLANTED = {
    "print": (before("print(rows.user[:9])"), "print"),
    "network": (before("import socket"), "network"),
    "network-from-torch": (before("from urllib.request import urlopen"), "network"),
    "file": (before('open("/tmp/x", "w").write(str(rows.user))'), "files"),
    "numpy-file": (before('np.save("/tmp/x", rows.user)'), "files"),
    "process": (before('import os; os.system("id")'), "process"),
    "exit-code": (before("import os; os._exit(int(rows.user[3]))"), "process"),
    "thread": (before("import threading; threading.Thread(target=self.init).start()"), "threads"),
    "eval": (before('eval("1+1")'), "dynamic"),
    "import-by-name": (before('__import__("so" + "cket")'), "dynamic"),
    "dunder-walk": (before("().__class__.__base__.__subclasses__()"), "dynamic"),
    "getattr": (before('getattr(np, "sa" + "ve")'), "dynamic"),
    "patched-numpy": (before("np.bincount = lambda *a, **b: rows.user"), "patching"),
    "homoglyph": (before("cоunts = 1"), "look-alike"),  # a Cyrillic o
    "ligature": (before("ﬁrst = 1"), "look-alike"),
    "users-in-tensor": (GOOD.replace(BACK, BACK.replace("gradient", "rows.user[:rows.n_items]")), "per-user"),
    "ratings-behind-the-counts": (
        before("counts[:50] = rows.rating[:50]", "        gradient ="),
        "per-user?",  # named where it is returned
    ),
    "payload": (before(f'key = "{"ab" * 150}"'), "payload"),
    "packed-bits": (before("bits = np.frombuffer(rows.user.tobytes(), np.float32)"), "packing"),
    "message": (before('raise ValueError(f"{rows.user[0]}")'), "message"),
}


def flags(code):
    return {fact.what for fact in facts_of(code) if fact.level in (RED, AMBER)}


def test_twenty_planted_problems_at_least_nineteen_are_flagged():
    assert len(PLANTED) == 20
    missed = [name for name, (code, _) in PLANTED.items() if not flags(code)]
    assert len(missed) <= 1, missed


@pytest.mark.parametrize("name", [name for name, (_, what) in PLANTED.items() if not what.endswith("?")])
def test_each_is_flagged_by_its_own_name_and_in_its_own_line(name):
    code, what = PLANTED[name]
    changed = {n for n, line in enumerate(code.splitlines(), 1) if line not in GOOD.splitlines()}
    found = [fact for fact in facts_of(code) if fact.what == what and fact.level != GREEN]
    assert found
    assert {fact.line for fact in found} <= changed


LOOP = before("""while True:
            if len(rows) > 3:
                break""")
CLEAN = {
    "popularity": GOOD,
    "factors": pathlib.Path(fedrec.examples.__file__).with_name("my_factors.py").read_text(),
    "other-script": GOOD.replace("# Popularity that learns slowly.", "# Популярность и обучение, 人気, β = 2²"),
    "end-in-sight": LOOP,
    "scatter": before("""sums = np.zeros(rows.n_items)
        np.add.at(sums, rows.item, rows.rating)
        means = sums / np.maximum(1, np.bincount(rows.item, minlength=rows.n_items))
        touched = rows.matrix()
        gram = touched.T @ touched""").replace('"taste": gradient', '"taste": means, "g": gram.toarray()'),
}  # fmt: skip


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_plan_has_no_flag(name):
    assert flags(CLEAN[name]) == set()
    assert all(fact.what == "import" for fact in facts_of(CLEAN[name]))


MORE = {
    "np.zeros sized by users": ("out = np.zeros(rows.n_users)", "out"),
    "a list of users": ("out = [float(x) for x in rows.user]", "np.array(out)"),
    "a loop": ("out = []\n        for user in rows.user:\n            out.append(user)", "np.array(out)"),
    "private arrays": ('out = private["users"]', "out"),
    "private by get": ('out = private.get("users")', "out.ravel()[:9]"),
    "scaled and padded": ("out = np.pad(rows.time * 0.5 + 1, 3)", "out"),
    "the matrix": ("m = rows.matrix()\n        out = m.toarray()[:, :4]", "out"),
    "insides of the matrix": ("out = rows.matrix().indices", "out"),
    "written into a slice": ("out = np.zeros(99)\n        out[1:4] = rows.rating[1:4]", "out"),
    "added into a slice": ("out = np.zeros(99)\n        out[1:4] += rows.rating[1:4]", "out"),
    "gathered": ('out = shared["taste"][rows.item]', "out"),
    "walrus and choice": ("out = rows.user if (n := rows.user) is None else n", "out"),
    "annotated": ("out: object = rows.user", "out"),
    "unpacked": ("out, _ = rows.user, 1", "out"),
}


@pytest.mark.parametrize("name", MORE)
def test_values_of_single_rows_are_followed_to_what_is_returned(name):
    lines, value = MORE[name]
    code = before(lines).replace('"taste": gradient', f'"taste": {value}')
    assert "per-user" in flags(code)


@pytest.mark.parametrize("way", ["out", "dict(taste=rows.user)", '{**{"taste": rows.user}}'])
def test_also_when_the_whole_contribution_is_a_name_or_a_call(way):
    code = before('out = {"taste": rows.user}').replace('{"taste": gradient}', way)
    assert "per-user" in flags(code)


def test_no_python_is_red_and_never_an_error():
    assert [fact.what for fact in facts_of("class X(:\n")] == ["form"]
    assert "form" in flags("(" * 5000)
    assert flags("import pandas2\nx = [1]\nfor y in x: pass") == {"import", "loaded"}
    assert "class" in flags(
        "class X(metaclass=Y):\n    def __reduce__(self): ...\n    @odd.way\n    def f(self): ...\n"
    )


def test_look_alikes_say_what_is_odd():
    assert "mixes the scripts Cyrillic, Latin" in look_alikes("lоss = 1")[0][1]
    assert "can be taken for 'a'" in look_alikes("x = а")[0][1]
    assert "read by Python as 'fit'" in look_alikes("\nﬁt = 1")[0][1]
    assert look_alikes("x = １")[0][0] == 1
    assert look_alikes("x = 1  # данные; café; 数") == []
