"""The pages are true: every command is in the README, shell lines parse, the Python runs, links lead somewhere."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fedrec.cli.main import cli

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "README.zh-CN.md",
    "CHANGELOG.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)


def commands(group: click.Command = cli, path: tuple[str, ...] = ("fedrec",)) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its words."""
    if not isinstance(group, click.Group):
        yield " ".join(path), group
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield from commands(found, (*path, name))


COMMANDS = dict(commands())


def lines(page: str) -> list[str]:
    """Lines of the page's shell blocks, without what follows a #, and commands within its text between backticks."""
    shell = [line for block in blocks(page, "sh") for line in block.splitlines()]
    spans = re.findall(r"(?<!`)`((?:fedrec|make) [^`]+)`(?!`)", read(page))
    return [line.partition("  #")[0] for line in (*shell, *spans) if line.startswith(("fedrec ", "make "))]


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readmes_table(path):
    command = COMMANDS[path]
    assert command.help, path
    for option in command.params:
        if isinstance(option, click.Option) and option.name not in ("help", "seed"):
            assert option.help, f"{path} {option.opts[0]} has no help"
    assert re.search(rf"^\| `{path}` \|", read("README.md"), re.MULTILINE), f"README.md has no row for {path}"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_but_the_lab_writes_json(path):
    options = {text for option in COMMANDS[path].params for text in option.opts}
    assert ("--json" in options) is (path != "fedrec lab")


def test_the_table_names_no_command_that_is_not_there():
    rows = re.findall(r"^\| `(fedrec [^`]+)` \|", read("README.md"), re.MULTILINE)
    assert set(rows) == set(COMMANDS)
    assert len(rows) == len(COMMANDS)


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))


def check_line(line: str) -> None:
    """Parse one line as click would, without running it; a whole line also needs the command's arguments."""
    words = shlex.split(line)
    if words[0] == "make":
        assert set(words[1:]) <= targets(), line
        return
    command: click.Command = cli
    rest = words[1:]
    while rest and isinstance(command, click.Group) and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"{line}: there is no command {rest[0]}"
        command, rest = found, rest[1:]
    known = {text for option in command.params for text in (*option.opts, *option.secondary_opts)} | {"--help"}
    assert {word for word in rest if word.startswith("-") and word != "-"} <= known, line


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in lines(page)])
def test_a_command_line_names_commands_and_options_that_exist(page, line):
    check_line(line)


@pytest.mark.parametrize(
    "line", [line for line in blocks("README.md", "sh") for line in line.splitlines() if line.startswith("fedrec ")]
)
def test_a_whole_line_of_the_readme_has_all_its_arguments(line, tmp_path, monkeypatch):
    """Files that it names are made first, so that what is checked is the line itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aurora").mkdir()
    (tmp_path / "run.toml").touch()
    (tmp_path / "ratings.csv").touch()
    words = shlex.split(line)[1:]
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None
        command = found
    command.make_context("fedrec", words, parent=context)


@pytest.mark.parametrize("wrong", ["fedrec demos", "fedrec demo --fast", "fedrec site servers DIR", "make tests"])
def test_control_a_wrong_line_is_noticed(wrong):
    with pytest.raises(AssertionError):
        check_line(wrong)


def test_the_simulation_example_runs_and_federating_helps(tmp_path):
    (block,) = blocks("README.md", "python")
    assert len(block.splitlines()) <= 18
    script = tmp_path / "example.py"
    script.write_text(block)
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=True
    )
    rows = {
        tuple(line.split()[:2]): float(line.split()[3])
        for line in done.stdout.splitlines()
        if line.split()[1:2] == ["all"]
    }
    assert rows["federated", "all"] > rows["local", "all"] > rows["popularity", "all"]


def test_the_run_file_of_the_readme_is_right(tmp_path):
    from fedrec.config import RunConfig
    from fedrec.scientist.runfile import plan_of

    (block,) = blocks("README.md", "toml")
    (tmp_path / "run.toml").write_text(block)
    plan = plan_of(RunConfig.load(tmp_path / "run.toml"))
    assert (plan.spec.name, plan.spec.rounds, plan.spec.publish) == ("first", 1, True)


def test_models_aggregators_and_folders_are_those_of_the_package():
    from fedrec import aggregation, models

    text = read("README.md")
    named = re.search(r"^Models: (.*?)\. Aggregators: (.*?)\.\n", text, re.DOTALL | re.MULTILINE)
    assert named is not None
    assert re.findall(r"`([a-z-]+)`", named[1]) == list(models.NAMES)
    assert re.findall(r"`([a-z-]+)`", named[2]) == list(aggregation.NAMES)
    listed = set(re.findall(r"^\| `fedrec/([a-z_]+)/` \|", text, re.MULTILINE))
    assert listed == {path.parent.name for path in (ROOT / "fedrec").glob("*/__init__.py")}
    listed = set(re.findall(r"^\| `([a-z]+)/", text.partition("## Map of the code")[2], re.MULTILINE))
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert listed == {name.partition("/")[0] for name in names if "/" in name and not name.startswith(".")}
    tests = re.search(r"^\| `tests/` \|.*$", text, re.MULTILINE)
    assert tests is not None
    own = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(re.findall(r"`([a-z]+)/`", tests[0])) >= own - listed - {
        path for path in own if (ROOT / "fedrec" / path).exists()
    }


def test_the_articles_page_names_every_model_and_calls_nothing_missing():
    from fedrec import models

    text = read("docs/article.md")
    assert [name for name in models.NAMES if f"`{name}`" not in text] == []
    assert "not yet" not in text.lower()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_every_file_that_a_page_names_is_there(page):
    text, here = read(page), (ROOT / page).parent
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (here / target).exists(), f"{page}: {target}"
    for name in re.findall(r"(?<!/)\b((?:fedrec|tests|benchmarks|domains|notebooks)/[\w./-]*\w)", text):
        assert (ROOT / name).exists(), f"{page}: {name}"
    for name in set(re.findall(r"`(test_\w+)`", text)):
        assert any(
            f"def {name}(" in path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")
        ), name


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_path_of_somebodys_machine(page):
    assert not re.search(r"(?<![\w.])/(home|root|work|tmp|Users)/", read(page))


def test_own_code_md_lists_what_the_jail_has_and_its_example_is_a_model():
    from fedrec.models import OwnModel

    tree = ast.parse((ROOT / "fedrec/institution/jail_child.py").read_text(encoding="utf-8"))
    value = next(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "IMPORTS"
    )
    assert isinstance(value, ast.Call)
    assert isinstance(value.func, ast.Attribute)
    imports = ast.literal_eval(value.func.value).split()
    quoted = "".join(line for line in read("docs/own-code.md").splitlines() if line.startswith("> "))
    assert re.findall(r"`([\w.]+)`", quoted) == imports
    example, _ = blocks("docs/own-code.md", "python")
    assert OwnModel(example).leaves() == {"taste": "float32 items"}


def test_both_readmes_have_the_same_commands_figures_and_steps():
    english, chinese = read("README.md"), read("README.zh-CN.md")
    assert blocks("README.zh-CN.md", "sh") == blocks("README.md", "sh")[:2]
    assert re.findall(r"0\.\d{4}", chinese) == re.findall(r"0\.\d{4}", english)
    steps = [
        re.findall(r"fedrec [a-z]+(?: [a-z]+)?", block)
        for page in ("README.md", "README.zh-CN.md")
        for block in blocks(page, "mermaid")
    ]
    assert steps[0] == steps[1]


def test_a_second_make_setup_installs_nothing_and_a_changed_requirement_does(tmp_path):
    """`make -n` only says what it would run; the second half is the control."""
    files = [tmp_path / name for name in ("Makefile", "requirements.txt", "pyproject.toml")]
    for age, file in enumerate(files):
        file.write_text(read(file.name))
        os.utime(file, (1000 + age, 1000 + age))
    (tmp_path / ".venv").mkdir()
    stamp = tmp_path / ".venv" / ".installed"
    stamp.touch()

    def would_run() -> str:
        return subprocess.run(["make", "-n", "setup"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    os.utime(stamp, (2000, 2000))
    assert "pip" not in would_run()
    os.utime(files[1], (3000, 3000))
    assert "pip install" in would_run()
