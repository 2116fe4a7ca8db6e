"""docs/threat-model.md names tests and files that exist, for every defence at least one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?")
FILE = re.compile(r"\b(?:fedrec|deploy|docs)/[\w/.-]+\.\w+")


def named_in(path: Path) -> set[str]:
    """The names of the test functions of a file."""
    return {
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def unknown(page: str) -> list[str]:
    """What a page names that is not there."""
    lost = [path for path in FILE.findall(page) if not (ROOT / path).is_file()]
    for file, test in NAMED.findall(page):
        if not (ROOT / file).is_file() or (test and test not in named_in(ROOT / file)):
            lost.append(f"{file}::{test}")
    return lost


def test_every_test_and_file_that_the_page_names_exists():
    assert len(NAMED.findall(PAGE)) > 50
    assert unknown(PAGE) == []


def test_every_defence_names_its_tests():
    body = PAGE.partition("## Defended")[2].partition("## Not defended")[0]
    rows = [line for line in body.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 30
    assert [row for row in rows if not NAMED.search(row.rpartition(" | ")[2])] == []


def test_control_a_test_that_is_not_there_is_noticed():
    assert unknown("tests/test_threat_model.py::test_that_nobody_wrote") == [
        "tests/test_threat_model.py::test_that_nobody_wrote"
    ]
    assert unknown("see tests/no_such_file.py and fedrec/no_such_file.py") == [
        "fedrec/no_such_file.py", "tests/no_such_file.py::",
    ]  # fmt: skip
