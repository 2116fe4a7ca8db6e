"""Every attack test has its control: the same attack without the defence, or words that say why there can be none."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

FILES = [path for path in sorted(Path(__file__).parent.glob("test_*.py")) if path.name != Path(__file__).name]
# a parameter or switch that takes the defence away, a bare PySyft, a reader without it, or words that say where it is
CONTROL = re.compile(r"defence|arena\(\s*False|\bbare\b|\.control\(|test_control_|test_without_|[Cc]ontrols?\b(?!\()")
ONE_FOR_ALL = {  # every test of these has the same control, which has a test of its own
    "test_matrix.py": "test_without_the_tables_every_call_of_an_account_passes",
    "test_canaries.py": "test_control_the_search_finds_every_way_of_writing",
    "test_tampering.py": "test_t13_control_a_reader_without_the_chain_takes_other_writings_for_the_same",
}
NO_ATTACK = {
    "test_break_ins.py": {"test_pysyfts_own_calls_inside_the_site_are_no_outsiders"},
    "test_submission.py": {"test_an_untouched_submission_is_taken_so_the_refusals_above_mean_something"},
}


def without_control(source: str) -> set[str]:
    """The attack tests of a file that have no control."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            words = "".join(map(ast.unparse, [*node.decorator_list, node]))
            if not CONTROL.search(words):
                found.add(node.name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_attack_has_a_control_or_says_why_not(path):
    source = path.read_text(encoding="utf-8")
    if path.name in ONE_FOR_ALL:
        assert f"def {ONE_FOR_ALL[path.name]}(" in source
    else:
        assert without_control(source) == NO_ATTACK.get(path.name, set())


def test_control_a_test_without_one_is_noticed():
    source = '''
def test_an_attack(strong):
    """Says nothing of it."""
    control(strong.site.folder, {})

def test_another(defence, arena):
    arena(defence, "role")
'''
    assert without_control(source) == {"test_an_attack"}
