"""The committed notebooks are what their sources give, without outputs."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fedrec.examples.my_factors import MyFactors

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
ALL = sorted(NOTEBOOKS.glob("*.ipynb"))


def test_every_notebook_is_what_its_source_gives():
    done = subprocess.run([sys.executable, NOTEBOOKS / "pair.py", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.stem for path in ALL] == [path.stem for path in sorted((NOTEBOOKS / "src").glob("*.py"))]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_a_notebook_says_who_you_are_and_holds_no_output(path):
    cells = json.loads(path.read_text())["cells"]
    first = "".join(cells[0]["source"])
    for words in ("**You are ", "**You will see**", "In real life"):
        assert words in first
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_last_cell_with_code_ends_on_a_table_or_a_plot(path):
    code = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert ends_on_a_result(code[-1])


@pytest.mark.parametrize(
    ("cell", "shows"),
    [("pd.DataFrame(rows).T", True), ("axes.set(title='t')\nplt.show()", True), ("print(1)", False), ("x = 1", False)],
)
def test_control_a_cell_that_prints_or_says_nothing_is_no_result(cell, shows):
    assert ends_on_a_result(cell) is shows


def ends_on_a_result(cell):
    """Whether a cell draws, or its last line is an expression with a frame in it."""
    last = ast.parse(cell).body[-1]
    table = isinstance(last, ast.Expr) and re.search(r"DataFrame|table", ast.unparse(last))
    return bool(table) or "plt." in cell or ".plot(" in cell


def test_the_class_in_the_notebook_is_the_one_of_the_demo():
    tree = ast.parse((NOTEBOOKS / "src" / "03_scientist_trains.py").read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    assert ast.dump(typed) == ast.dump(ast.parse(inspect.getsource(MyFactors)).body[0])
