"""A class that was typed into a notebook cell reaches the plan as it was typed."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient

from fedrec.examples.my_factors import MyFactors
from fedrec.scientist.plan import source_of

CLASS = """
class Mine:
    '''Counts.'''
    def init(self, n_items, seed):
        return {"counts": np.zeros(n_items)}

    def fit_site(self, rows, shared, private):
        return {"counts": rows.matrix().sum(0) * FACTOR}, {}

    def score(self, rows, shared, private):
        return np.tile(shared["counts"], (rows.n_users, 1))
"""
SHOW = "from fedrec.scientist.plan import source_of\nprint(source_of(Mine))"


def printed(*cells: str) -> str:
    """What the last of these cells prints in a fresh kernel."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    return str(notebook.cells[-1].outputs[0].text)


def test_the_source_is_the_one_of_the_class_that_exists():
    """The last cell breaks before it defines the class anew, so the plan must not take its text."""
    broken = "try:\n    1 / 0\n" + "".join(f"    {line}\n" for line in CLASS.replace("FACTOR", "3").splitlines())
    broken += "except ZeroDivisionError:\n    pass"
    text = printed("import numpy as np" + CLASS.replace("FACTOR", "1"), CLASS.replace("FACTOR", "2"), broken, SHOW)
    assert "* 2" in text
    assert text.startswith("class Mine:\n    # Counts.\n")


def test_a_class_in_a_file_gives_its_own_text():
    assert source_of(MyFactors).startswith("class MyFactors:\n")
