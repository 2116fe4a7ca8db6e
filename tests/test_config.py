"""Every TOML file: all problems at once, in plain words, with file and dotted key."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from fedrec.config import ConsortiumConfig, Limits, RunConfig, SchemaConfig, SiteConfig
from fedrec.errors import ConfigError, WrongInput

MOVIES = Path(__file__).parent.parent / "domains" / "movies"

SITE = 'name = "a"\ntitle = "A"\nowner = "o@a.example"\n'
SCHEMA = 'title = "T"\n[columns]\nuser = "u"\nitem = "i"\n'
CONSORTIUM = 'name = "c"\ntitle = "C"\n[[member]]\nname = "a"\nfolder = "a"\n[[member]]\nname = "b"\nfolder = "b"\n'
RUN = 'consortium = "c.toml"\nname = "r"\npurpose = "P"\n[model]\nname = "ease"\n'


def problems(kind, tmp_path, text):
    """What `kind` says against a file with this text."""
    file = tmp_path / "x.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        kind.load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert "pydantic" not in str(caught.value)
    assert "\n" not in str(caught.value)
    return list(caught.value.problems)


def load(kind, tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    return kind.load(tmp_path / "x.toml")


def test_all_problems_of_a_site_are_listed_at_once(tmp_path):
    text = """
nme = "a"
title = " "
owner = "nobody"
host = "0.0.0.0"
port = 70000
data = "../rows.csv"
[limits]
train = "5"
megabytes = true
minutes = nan
jail_level = 1
own_code = true
models = ["ease", 3]
"""
    assert problems(SiteConfig, tmp_path, text) == [
        "name: is missing",
        "title: must not be blank",
        "owner: must be an e-mail address",
        "host: must be 127.0.0.1, ::1 or localhost: sites are not served to a network without TLS; with "
        "tls.behind_proxy = true any IP address, when a proxy that speaks TLS is all that can reach it",
        "port: must be at most 65535, not 70000",
        "data: must be a relative path without '..'",
        "limits.train: must be a whole number, not '5'",
        "limits.megabytes: must be a number, not true",
        "limits.minutes: must be a finite number",
        "limits.own_code: needs jail_level = 2 or 3: level 1 isolates neither network nor files",
        "limits.models[2]: must be text, not 3",
        "nme: is not a known key; did you mean name?",
    ]


def test_a_minimal_site_gets_the_cautious_limits(tmp_path):
    site = load(SiteConfig, tmp_path, SITE)
    assert (site.host, site.port) == ("127.0.0.1", 0)
    assert site.data_path == tmp_path / "data" / "ratings.csv"
    assert site.consortium_path == tmp_path / ".." / "consortium.toml"
    assert site.limits == Limits()
    others = (False, True, False, True, 90, "0-24", 2000, (), (), {})  # own_code off, tell_errors on
    expected = (500, 100, 64.0, 10.0, 4096, 1000, 1, 2, 1, 1.0, None, 2, None, 1e-5, *others)
    assert tuple(site.limits.model_dump().values()) == expected


def test_whole_numbers_are_fine_where_a_number_is_asked(tmp_path):
    assert load(SiteConfig, tmp_path, SITE + "[limits]\nmegabytes = 16\n").limits.megabytes == 16.0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_loopback_hosts_are_accepted(tmp_path, host):
    assert load(SiteConfig, tmp_path, SITE + f'host = "{host}"\n').host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "localhost.example.org"])
def test_every_other_host_is_refused(tmp_path, host):
    (problem,) = problems(SiteConfig, tmp_path, SITE + f'host = "{host}"\n')
    assert problem.startswith("host: must be 127.0.0.1")


@pytest.mark.parametrize("name", ["A", "a b", "a_b", "", "-a", "a/b", "é", "a" * 64])
def test_a_name_that_is_no_slug_is_refused(tmp_path, name):
    (problem,) = problems(SiteConfig, tmp_path, SITE.replace('"a"', f'"{name}"'))
    assert problem.startswith("name: must be 1 to 63 of")


def test_a_missing_file_a_folder_and_text_that_is_not_utf8_are_said_plainly(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such file"):
        SiteConfig.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        SiteConfig.load(tmp_path)
    assert problems(SiteConfig, tmp_path, b'name = "\xff"\n') == ["is not UTF-8 text"]


def test_malformed_toml_names_the_line(tmp_path):
    (problem,) = problems(SiteConfig, tmp_path, 'name = "a"\ntitle == 3\n')
    assert problem.startswith("is not valid TOML")
    assert "line 2" in problem


def test_a_byte_order_mark_and_crlf_are_no_problem(tmp_path):
    (tmp_path / "x.toml").write_bytes(b"\xef\xbb\xbf" + SITE.replace("\n", "\r\n").encode())
    assert SiteConfig.load(tmp_path / "x.toml").name == "a"


def test_a_checked_file_cannot_be_changed(tmp_path):
    site = load(SiteConfig, tmp_path, SITE)
    with pytest.raises(ValueError, match="frozen"):
        site.limits.own_code = True


def test_a_table_where_a_value_belongs_and_the_reverse(tmp_path):
    assert problems(SiteConfig, tmp_path, SITE + 'port = "1"\nlimits = 3\n') == [
        "port: must be a whole number, not '1'",
        "limits: must be a table, not 3",
    ]


def test_the_rating_scale_comes_with_the_rating_column(tmp_path):
    assert problems(SchemaConfig, tmp_path, SCHEMA + 'rating = "r"\n') == [
        "rating: needs min and max, since columns.rating is set"
    ]
    assert problems(SchemaConfig, tmp_path, SCHEMA + "[rating]\nmin = 1\nmax = 5\n") == [
        "rating: has no meaning without columns.rating"
    ]
    assert problems(SchemaConfig, tmp_path, SCHEMA + 'rating = "r"\n[rating]\nmin = 5\nmax = 5\nstep = 0\n') == [
        "rating.max: must be more than min",
        "rating.step: must be more than 0, not 0",
    ]


def test_a_schema_without_rating_and_time_is_complete(tmp_path):
    schema = load(SchemaConfig, tmp_path, SCHEMA)
    assert (schema.columns.rating, schema.columns.time, schema.rating) == (None, None, None)
    assert (schema.on_duplicate, schema.max_rejected, schema.time.unit) == ("last", 0.01, "s")
    assert (schema.mock.users, schema.mock.items, schema.mock.rows, schema.mock.seed) == (50, 40, 400, 0)


def test_wrong_rules_of_a_schema_are_named(tmp_path):
    text = (
        'on_duplicate = "mean"\nmax_rejected = 2\n' + SCHEMA + 'time = "u"\n[time]\nunit = "h"\n[mock]\nrows = 2001\n'
    )
    assert problems(SchemaConfig, tmp_path, text) == [  # 2001 > 50 users x 40 items
        "on_duplicate: must be 'last', 'first' or 'max', not 'mean'",
        "max_rejected: must be at most 1, not 2",
        "columns.time: names a column that another key names already",
        "time.unit: must be 's', 'ms' or 'iso', not 'h'",
        "mock.rows: must be at most users x items: the mock has no pair twice",
    ]


def test_members_are_checked_one_by_one_and_counted_from_one(tmp_path):
    text = CONSORTIUM.replace('name = "b"\nfolder = "b"', 'name = "B"\nfolder = "/b"\nkey = "zz"\nurl = "http://u:p@h"')
    assert problems(ConsortiumConfig, tmp_path, text) == [
        "member[2].name: must be 1 to 63 of a-z, 0-9 and '-', not first '-'",
        "member[2].folder: must be a relative path without '..'",
        "member[2].url: must be http(s)://host:port, or empty",
        "member[2].key: must be an Ed25519 key as 64 hex digits, or empty",
    ]


def test_a_consortium_has_members_and_no_name_twice(tmp_path):
    assert problems(ConsortiumConfig, tmp_path, 'name = "c"\ntitle = "C"\n') == ["member: is missing"]
    assert problems(ConsortiumConfig, tmp_path, 'name = "c"\ntitle = "C"\nmember = []\n') == [
        "member: must name at least one institution"
    ]
    assert problems(ConsortiumConfig, tmp_path, CONSORTIUM.replace('name = "b"', 'name = "a"')) == [
        "member: two members have the same name"
    ]


def test_the_catalogue_gives_ids_by_position(tmp_path):
    consortium = load(ConsortiumConfig, tmp_path, CONSORTIUM)
    (tmp_path / "items.csv").write_bytes('\ufeffitem,title\r\n007,"a, b"\r\n e\u0301 ,c\r\n'.encode())
    assert consortium.item_ids() == ("007", "\u00e9")
    assert consortium.catalogue_path == tmp_path / "items.csv"
    assert consortium.member_folder("b") == tmp_path / "b"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no item catalogue yet"),
        ("", "first column must be called item"),
        ("id\n1\n", "first column must be called item"),
        ("item\n", "has no item"),
        ("item\n1\n2\n1\n", "line 4 has no usable id, or one twice"),
        ("item\ne\u0301\n\u00e9\n", "line 3 has no usable id, or one twice"),
        ("item\n1\n\n", "line 3 has no usable id"),
    ],
)
def test_a_catalogue_that_cannot_serve_is_refused(tmp_path, text, says):
    consortium = load(ConsortiumConfig, tmp_path, CONSORTIUM)
    if text is not None:
        (tmp_path / "items.csv").write_text(text, encoding="utf-8")
    with pytest.raises(WrongInput, match=says):
        consortium.item_ids()


def test_the_hash_changes_with_a_key_a_member_or_the_catalogue_and_with_nothing_else(tmp_path):
    key = "0" * 63 + "1"
    items = tmp_path / "items.csv"
    items.write_text("item\n1\n2\n")
    first = load(ConsortiumConfig, tmp_path, CONSORTIUM).hash
    canonical = '{"members":[["a",""],["b",""]],"name":"c"}'
    assert first == hashlib.sha256(f"fedrec-consortium-v1\n{canonical}\nitem\n1\n2\n".encode()).hexdigest()
    same = [CONSORTIUM + 'url = "http://127.0.0.1:8000"\n', CONSORTIUM.replace('folder = "b"', 'folder = "c"')]
    other = [CONSORTIUM + f'key = "{key}"\n', CONSORTIUM.replace('name = "b"', 'name = "d"')]
    assert [load(ConsortiumConfig, tmp_path, text).hash == first for text in same + other] == [True, True, False, False]
    items.write_bytes(b"item\r\n1\r\n2\r\n")
    assert load(ConsortiumConfig, tmp_path, CONSORTIUM).hash == first
    items.write_text("item\n2\n1\n")
    assert load(ConsortiumConfig, tmp_path, CONSORTIUM).hash != first


def test_a_consortium_written_again_reads_the_same(tmp_path):
    consortium = load(ConsortiumConfig, tmp_path, CONSORTIUM.replace('"C"', r'"C \"quoted\" \\ é"'))
    again = load(ConsortiumConfig, tmp_path, consortium.as_toml())
    assert again == consortium
    demo = '[demo]\nmodels = ["ease", "itemcf"]\ndenied = "itemcf"\n'
    shown = load(ConsortiumConfig, tmp_path, CONSORTIUM + demo)
    assert load(ConsortiumConfig, tmp_path, shown.as_toml()) == shown != consortium


@pytest.mark.parametrize("denied", ["ease", "mf"])
def test_the_demo_s_owner_denies_a_plan_that_is_asked_for_and_not_published(tmp_path, denied):
    demo = f'[demo]\nmodels = ["ease", "itemcf"]\ndenied = "{denied}"\n'
    said = problems(ConsortiumConfig, tmp_path, CONSORTIUM + demo)
    assert said == ["demo.denied: must be one of models, and not the first"]


def test_a_run_takes_a_model_by_name_or_by_file(tmp_path):
    run = load(RunConfig, tmp_path, RUN + "l2 = 200.0\n[privacy]\n")
    assert (run.model.name, run.model.settings) == ("ease", {"l2": 200.0})
    assert (run.protocol, run.evaluate, run.publish, run.rounds, run.seed) == ("all", (), False, None, 0)
    assert run.code_path is None
    own = load(RunConfig, tmp_path, RUN.replace('name = "ease"', 'code = "m.py"\nclass = "My"\nd = 8'))
    assert (own.code_path, own.model.class_name, own.model.settings) == (tmp_path / "m.py", "My", {"d": 8})


@pytest.mark.parametrize(
    "model", ["", 'name = "ease"\ncode = "m.py"\n', 'code = "m.py"\n', 'name = "x"\nclass = "A"\n']
)
def test_a_run_with_neither_or_both_kinds_of_model_is_refused(tmp_path, model):
    text = RUN.replace('name = "ease"\n', model)
    assert problems(RunConfig, tmp_path, text) == ["model.code: give either model.name, or model.code and model.class"]


def test_a_run_with_wrong_protocols_rounds_and_name_is_refused(tmp_path):
    text = 'protocol = "p4"\nevaluate = ["p1", "all"]\nrounds = 0\nseed = -1\n' + RUN.replace('"r"', '"r-1"')
    assert problems(RunConfig, tmp_path, text) == [
        "name: must be 1 to 40 of a-z, 0-9 and '_', first a letter",
        "rounds: must be at least 1, not 0",
        "seed: must be at least 0, not -1",
        "protocol: must be 'p1', 'p2', 'p3' or 'all', not 'p4'",
        "evaluate[2]: must be 'p1', 'p2' or 'p3', not 'all'",
    ]


def test_the_committed_consortium_and_its_members_are_right():
    consortium = ConsortiumConfig.load(MOVIES / "consortium.toml")
    assert [member.name for member in consortium.member] == ["aurora", "borealis", "cinema-lumen", "delphi"]
    for member in consortium.member:
        folder = consortium.member_folder(member.name)
        site = SiteConfig.load(folder / "site.toml")
        assert site.name == member.name
        assert site.consortium_path.resolve() == MOVIES / "consortium.toml"
        assert site.limits.own_code
        assert (folder / "DATASHEET.md").read_text(encoding="utf-8").startswith("# ")
        SchemaConfig.load(folder / "schema.toml")


def test_the_store_loads_neither_pydantic_nor_pandas():
    """A job reads rows through fedrec.institution.store, and must not carry either."""
    code = "import sys, fedrec.institution.store; print({'pandas', 'pydantic', 'torch', 'syft'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::"])
def test_a_site_is_served_to_a_network_only_behind_a_proxy_that_speaks_tls(tmp_path, host):
    text = f'name = "a"\ntitle = "A"\nowner = "o@a.example"\nhost = "{host}"\n'
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(ConfigError, match="sites are not served to a network without TLS"):
        SiteConfig.load(tmp_path / "site.toml")
    (tmp_path / "site.toml").write_text(text + "[tls]\nbehind_proxy = false\n")
    with pytest.raises(ConfigError, match="sites are not served to a network without TLS"):
        SiteConfig.load(tmp_path / "site.toml")
    (tmp_path / "site.toml").write_text(text + "[tls]\nbehind_proxy = true\n")
    assert SiteConfig.load(tmp_path / "site.toml").host == host
    (tmp_path / "site.toml").write_text(text.replace(host, "proxy.example") + "[tls]\nbehind_proxy = true\n")
    with pytest.raises(ConfigError, match="host: must be"):
        SiteConfig.load(tmp_path / "site.toml")


def test_the_authority_behind_https_is_kept_when_the_consortium_is_written_again(tmp_path):
    path = tmp_path / "consortium.toml"
    path.write_text('name = "c"\ntitle = "C"\nca = "tls/ca.pem"\n[[member]]\nname = "a"\nfolder = "a"\n')
    loaded = ConsortiumConfig.load(path)
    path.write_text(loaded.as_toml())
    assert ConsortiumConfig.load(path).ca_path == tmp_path / "tls" / "ca.pem"
    (tmp_path / "items.csv").write_text("item\nf\n")
    hashed = loaded.hash
    path.write_text(path.read_text().replace('ca = "tls/ca.pem"\n', ""))
    assert ConsortiumConfig.load(path).ca_path is None
    assert ConsortiumConfig.load(path).hash == hashed  # an address's authority may differ between members
