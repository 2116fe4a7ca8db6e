"""What a person gets wrong ends with one clear line on stderr and exit code 2 or 3; nothing is lost."""

from __future__ import annotations

import secrets
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import real_sites
from real_sites import ADA_PASSWORD, command, fresh, one_line

from fedrec.demo.sites import SCIENTIST

pytestmark = pytest.mark.sites

ADA = {"FEDREC_USER": SCIENTIST, "FEDREC_PASSWORD": ADA_PASSWORD}


@pytest.fixture
def folder(tmp_path):
    """An institution's folder that has never been served; each test spoils one thing."""
    return real_sites.lone(tmp_path).work / "solo"


def spoil(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


def drop(folder, name):
    (folder / name).unlink()


SPOILT = {
    "no site.toml": (lambda folder: drop(folder, "site.toml"), "site.toml: there is no such file"),
    "no schema.toml": (lambda folder: drop(folder, "schema.toml"), "schema.toml: there is no such file"),
    "no data": (lambda folder: drop(folder, "data/ratings.csv"), "ratings.csv"),
    "no consortium.toml": (lambda folder: drop(folder, "../consortium.toml"), "consortium.toml: there is no such file"),
    "no catalogue": (lambda folder: drop(folder, "../items.csv"), "items.csv"),
    "malformed TOML": (lambda folder: spoil(folder, "site.toml", "port = 0", "port = = 0"), "line 4"),
    "a misspelt key": (lambda folder: spoil(folder, "site.toml", "port = 0", "prot = 0"), "prot"),
    "two problems": (lambda folder: spoil(folder, "site.toml", "port = 0", "port = 99999\ndays = 3"), "port"),
    "other columns": (
        lambda folder: spoil(folder, "data/ratings.csv", "user,item,rating", "customer,item,stars"),
        "user",
    ),
    "an empty file": (lambda folder: (folder / "data/ratings.csv").write_text(""), "empty"),
    "only a header": (
        lambda folder: (folder / "data/ratings.csv").write_text("user,item,rating,timestamp\n"),
        "ratings.csv",
    ),
    "ratings off the scale": (lambda folder: spoil(folder, "data/ratings.csv", ",5,", ",500,"), "rating"),
    "a member that the consortium lacks": (
        lambda folder: spoil(folder, "site.toml", '"solo"', '"solitude"'),
        "has no member called",
    ),
    "another key than the pinned one": (
        lambda folder: shutil.rmtree(folder / "state" / "keys"),
        "pins another key for solo",
    ),
    "a host that others can reach": (
        lambda folder: spoil(folder, "site.toml", "port = 0", 'port = 0\nhost = "0.0.0.0"'),
        "host",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_site_with_wrong_settings_or_data_does_not_start_and_says_why(what, folder):
    spoiling, says = SPOILT[what]
    spoiling(folder)
    text = one_line(command("site", "serve", folder, FEDREC_OWNER_PASSWORD="owner-password"), 2)
    assert says in text
    assert real_sites.CANARY not in text
    if what == "two problems":
        assert "days" in text


def test_the_first_start_wants_the_owners_password(folder):
    text = one_line(command("site", "serve", folder), 2)
    assert text == "the first start makes the owner's account: set FEDREC_OWNER_PASSWORD"


def test_a_port_that_is_taken_is_named(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        spoil(folder, "site.toml", "port = 0", f"port = {port}")
        text = one_line(command("site", "serve", folder, FEDREC_OWNER_PASSWORD="owner-password"), 2)
    assert text == f"port {port} on 127.0.0.1 cannot be used (Address already in use); choose another in site.toml"


def test_a_folder_is_served_by_one_process_only(aurora):
    text = one_line(command("site", "serve", aurora.folder, FEDREC_OWNER_PASSWORD="owner-password"), 2)
    assert text == "another process serves this folder"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["site", "serve"], "DIR"),
        (["site", "serve", "nowhere"], "nowhere"),
        (["site", "serve", ".", "--fast"], "--fast"),
        (["sites"], "sites"),
        (["requests", "deny", ".", "123456"], "--reason"),
        (["requests", "show", ".", "123456"], "has not been served yet"),
        (["run", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_mistyped_command_is_told_in_one_line(arguments, says):
    assert says in one_line(command(*arguments), 2)


def test_a_wrong_password_ends_with_code_3(aurora, federation, tmp_path):
    request = real_sites.submit_one(federation._sites["aurora"], fresh())
    wrong = {"FEDREC_USER": aurora.owner, "FEDREC_PASSWORD": "not-the-password"}
    text = one_line(command("requests", "approve", aurora.folder, request, **wrong), 3)
    assert text == "login.password: aurora: e-mail or password is wrong. Check FEDREC_USER and FEDREC_PASSWORD"
    assert "not-the-password" not in text
    text = one_line(command("requests", "approve", aurora.folder, request), 2)
    assert text == "set FEDREC_USER and FEDREC_PASSWORD to your account at the site"


def test_the_scientists_password_does_not_approve(aurora, federation):
    request = real_sites.submit_one(federation._sites["aurora"], fresh())
    text = one_line(command("requests", "approve", aurora.folder, request, **ADA), 3)
    assert text == "gate.role: this account may not call this. Use an account with the role for it"


def run_file(folder, consortium, **more):
    lines = {"name": '"p"', "purpose": f'"test {secrets.token_hex(8)}"', "protocol": '"p1"', "rounds": "1"} | more
    text = f'consortium = "{consortium}"\n' + "".join(f"{key} = {value}\n" for key, value in lines.items())
    (folder / "run.toml").write_text(text + '[model]\nname = "popularity"\n')
    return folder / "run.toml"


@pytest.fixture(scope="module")
def tried(sites, owners, federation, tmp_path_factory):
    """`fedrec run` with three things that go wrong, side by side: name → (what it ended with, its folder)."""
    from fedrec.config import RunConfig
    from fedrec.scientist.runfile import plan_of

    folders = {name: tmp_path_factory.mktemp(name) for name in ("above", "password", "denied")}
    files = {
        name: run_file(folder, sites.consortium, rounds="501" if name == "above" else "1")
        for name, folder in folders.items()
    }
    requests = federation.submit(plan_of(RunConfig.load(files["denied"])))
    for name, owner in owners.items():
        owner.undo(requests.ids[name], "not this year")
    wrong = ADA | {"FEDREC_PASSWORD": "not-the-password"}

    def one(name):
        secrets = wrong if name == "password" else ADA
        return command("run", files[name], "--runs", folders[name] / "runs", **secrets), folders[name]

    with ThreadPoolExecutor() as pool:
        return dict(zip(folders, pool.map(one, folders), strict=True))


def test_a_plan_above_a_sites_limits_is_refused_with_the_limit(tried):
    done, folder = tried["above"]
    assert one_line(done, 3) == "plan.rounds: aurora: 501 train tasks asked, 500 allowed. Ask for fewer rounds"
    assert [path.name for path in folder.iterdir()] == ["run.toml"]


def test_a_scientist_with_a_wrong_password_is_told_at_connect(tried):
    said = one_line(tried["password"][0], 3)
    assert said == "login.password: aurora: e-mail or password is wrong. Check FEDREC_USER and FEDREC_PASSWORD"


def test_a_denied_plan_ends_with_code_3_and_names_who_denied_it(tried):
    said = one_line(tried["denied"][0], 3)
    assert said.startswith("permit.denied: not every institution takes part: aurora (denied), borealis (denied), ")
