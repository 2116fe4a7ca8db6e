"""Twenty requests with one planted problem each, of which at least nineteen must be flagged; five without must not."""

from __future__ import annotations

import ast
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


THROUGH = {  # modules of Python behind those that every plan has
    "torch.builtins.print(rows.user)": "system",
    "torch.sys.stdout.write(str(rows.user))": "system",
    "torch.os.listdir('/')": "system",
    "torch.os.posix_spawn('/bin/id', ['id'], {})": "process",
    "torch.sys.modules['socket'].socket()": "system",
    "torch.multiprocessing.Process(target=self.init).start()": "process",
    "torch.inspect.currentframe()": "system",
    "np.ctypeslib.ctypes.CDLL(None)": "process",
    "rows.user.dump('x')": "files",
    "rows.user.tofile('x')": "files",
    "rows.user.ctypes.data": "process",
    "torch.utils.cpp_extension.load_inline('x', '')": "process",
    "torch.distributed.init_process_group()": "network",
    "torch.hub.load('a/b', 'c')": "network",
    "torch.serialization.pickle.Pickler": "packing",
    "np.random._pickle": "system",
    "torch._C": "system",
    "import random; random._os.system('id')": "system",
    "from torch import os": "system",
    "import torch.multiprocessing as mp": "process",
    "from numpy.ctypeslib import as_ctypes": "process",
    "m = torch; m.x": "dynamic",
    "n = torch.nn; n._reduction": "system",
    "[np][0].os": "dynamic",
    "torch.functional.builtins.exec('1')": "system",
    "np.seterrcall(print)": "print",
}


@pytest.mark.parametrize("line", THROUGH)
def test_what_is_reached_through_a_usual_module_is_red(line):
    wanted = AMBER if THROUGH[line] == "print" else RED
    (where,) = (n for n, text in enumerate(before(line).splitlines(), 1) if text.strip() == line)
    assert (where, wanted, THROUGH[line]) in {(fact.line, fact.level, fact.what) for fact in facts_of(before(line))}


USUAL = """import collections.abc
import torch.nn.functional as F
from scipy import signal
from torch.utils.data import DataLoader
model = torch.nn.Sequential(torch.nn.Linear(2, 2)).eval()
soft = torch.nn.functional.softmax
a = np.random.default_rng(0).random(3) + np.linalg.norm(np.array([1.0]).copy()) + np.math.pi
b = np.select([a > 1], [a]) + np.trace(np.eye(3)) + scipy.signal.lfilter(a, a, a) + torch.utils.data.default_collate(a)
c = self.site, self.code, rows.time.max(), np.copy(a), torch.chunk(b, 2), torch.distributions.Normal(0, 1)"""


def test_control_what_a_model_usually_takes_from_them_is_not():
    code = before(USUAL.replace("\n", "\n        "))
    assert {fact.text for fact in facts_of(code) if fact.level != GREEN and fact.what != "per-user"} == set()


def test_a_notebooks_own_class_has_no_flag():
    pages = [ast.parse(page.read_text()) for page in pathlib.Path(__file__).parents[2].glob("notebooks/src/*.py")]
    classes = {node.name: ast.unparse(node) for page in pages for node in page.body if isinstance(node, ast.ClassDef)}
    assert {name: flags(code) for name, code in classes.items()} == {"MyFactors": set(), "MeanRating": set()}


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
    "a method of its own": ("out = self.g(rows)", "out"),
    "a function of its own": ("def g(r):\n            return r.item[:9]\n        out = g(rows)", "out"),
    "a function that closes over the rows": ("def g():\n            return rows.item[:9]\n        out = g()", "out"),
    "a lambda": ("g = lambda r: r.item[:9]\n        out = g(rows)", "out"),
    "a lambda that closes over the rows": ("g = lambda: rows.item[:9]", "g()"),
    "another name for the rows": ("r = rows\n        out = r.item[:9]", "out"),
    "np.add": ("out = np.add(rows.item[:9], 0)", "out"),
    "np.copyto": ("out = np.zeros(9)\n        np.copyto(out, rows.item[:9])", "out"),
    "np.put": ("out = np.zeros(9)\n        np.put(out, range(9), rows.item)", "out"),
    "np.add.at in order": ("out = np.zeros(9)\n        np.add.at(out, range(9), rows.item[:9])", "out"),
    "out=": ("out = np.zeros(9)\n        np.multiply(rows.item[:9], 1, out=out)", "out"),
    "np.fromiter": ("out = np.fromiter(map(int, rows.item), float)", "out"),
    "sums by user": ("out = rows.matrix().sum(1)", "out"),
    "sums by user, by name": ("out = np.sum(rows.matrix().toarray(), axis=-1)", "out"),
    "counts by user": ("out = np.bincount(rows.user)", "out"),
    "one value": ("out = rows.rating[3].item()", "out"),
    "a mask": ("out = rows.rating[:9] > 3", "out"),
    "a dict of them": ("out = {user: 1 for user in rows.user}", "list(out)"),
    "the matrix's coordinates": ("out = rows.matrix().tocoo()", "out.row"),
}


@pytest.mark.parametrize("name", MORE)
def test_values_of_single_rows_are_followed_to_what_is_returned(name):
    lines, value = MORE[name]
    code = before(lines).replace('"taste": gradient', f'"taste": {value}')
    assert "per-user" in flags(code)


TOLD = ["self.keep(rows)", "self.keep(private)", "keep(rows, 1)", "self.keep(all=rows)"]


@pytest.mark.parametrize("line", TOLD)
def test_whole_rows_or_private_arrays_handed_to_an_own_function_are_amber(line):
    found = [fact for fact in facts_of(before(line)) if fact.level != GREEN]
    assert [(fact.level, fact.what) for fact in found] == [(AMBER, "handed")]
    assert flags(before("size = len(rows), dict(private), rows.take(rows.item > 3)")) == set()  # the control


def test_the_whole_answer_of_another_function_is_followed_too():
    code = GOOD.replace(BACK, "        return self.other(rows, private)\n" + BACK)
    assert flags(code) == {"handed", "per-user"}


SUMS = """sums = np.zeros(rows.n_items)
mask = rows.rating > 3
sums += np.bincount(rows.item[mask], weights=rows.rating[mask], minlength=rows.n_items)
sums += rows.matrix().sum(axis=0).A1
torch.zeros(9).index_add_(0, torch.tensor(rows.item), torch.ones(9))
gram = np.matmul(rows.matrix().T, rows.matrix())
mean = float(np.mean(rows.rating)) / max(1, len(rows))
loss = torch.nn.functional.mse_loss(torch.tensor(rows.rating), torch.ones(9))
loss.backward()"""


def test_control_sums_over_rows_are_not_flagged():
    code = before(SUMS.replace("\n", "\n        "))
    for value in ("sums", "gram", "mean", "loss", "gradient"):
        assert flags(code.replace('"taste": gradient', f'"taste": {value}')) == set(), value


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
