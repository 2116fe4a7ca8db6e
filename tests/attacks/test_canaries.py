"""Nothing raw leaves: canaries in every institution's rows, and a search of everything outside after the whole demo.

Planted are users' ids, ratings (every row has a number of its own) and the films' titles as a feature column of
each institution's own. Items' ids are not: the catalogue belongs to the consortium, everybody has it, and a model
names its items by their place in it. What the search must not find is on the sockets (a recording proxy before
every site), in every file outside the institutions' folders, in the log of each site, in what the demo says, in
its report and in its errors. Inside, rows stay in data/ and state/store/.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import real_sites
from canaries import Recorder, Search, plant
from real_sites import ADA_PASSWORD, BOB, BOB_PASSWORD, approved, fresh, login, owner_password
from weak_process import WeakSite

import fedrec
from fedrec.datasets import synthetic
from fedrec.demo.sites import SiteProcess, Sites, prepare, write_consortium
from fedrec.demo.story import Options, Story
from fedrec.demo.table import drawn
from fedrec.errors import Refused
from fedrec.institution.store import Store

pytestmark = [pytest.mark.sites, pytest.mark.timeout(600)]
DOMAIN = Path(__file__).parents[2] / "domains" / "movies"
THIEF = """
class Thief:
    def init(self, n_items, seed):
        return {"v": np.zeros(n_items)}

    def fit_site(self, rows, shared, private):
        print(list(rows.rating[:9]), file=sys.stderr)
        LAST
        return {"v": np.zeros(rows.n_items), "rows": rows.rating}, {}

    def score(self, rows, shared, private):
        return np.zeros((rows.n_users, rows.n_items))
"""


def thief(last: str) -> fedrec.Plan:
    return fresh(code="import sys\n" + THIEF.replace("LAST", last), name="thief", settings={}, rounds=1)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Folders for everything that any process of the story may write."""
    root = tmp_path_factory.mktemp("canaries")
    found = SimpleNamespace(root=root, work=root / "movies", home=root / "home", temporary=root / "tmp")
    found.home.mkdir()
    found.temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(found.home))
        patch.setenv("TMPDIR", str(found.temporary))
        patch.setattr(tempfile, "tempdir", None)
        yield found


@pytest.fixture(scope="module")
def told(places: SimpleNamespace) -> SimpleNamespace:
    """The demo's story with canaries in the data of four sites, then a scientist who tries to take rows; all recorded."""
    data = synthetic(places.root / "source", users=80, items=80)
    config = prepare(DOMAIN, places.work, places.root / "source")
    shutil.rmtree(places.root / "source")  # the rows before the canaries were put in
    draw, said = np.random.default_rng(11), []
    ratings = np.concatenate([plant(places.work / member.folder, draw) for member in config.member])
    with Sites(places.work, owner_password) as sites:
        proxies = {name: Recorder(int(site.url.rpartition(":")[2])) for name, site in sites.all.items()}
        urls = {name: f"http://127.0.0.1:{proxy.port}" for name, proxy in proxies.items()}
        sites.config = write_consortium(sites.config, sites.work, urls=urls)
        report = Story(Options(rounds=2), said.append).on_sites(sites, data, ADA_PASSWORD)
        steals(sites, places.root / "runs", said)
        folders = [site.folder for site in sites.all.values()]
        rows = [Store.open(folder / "state").rows() for folder in folders]
        pairs = [np.stack([one.user, one.item], axis=1) for one in rows]
    for proxy in proxies.values():
        proxy.listening.close()
    wire = b"".join(bytes(proxy.bytes) for proxy in proxies.values())
    search = Search(ratings, *pairs)
    return SimpleNamespace(
        search=search, pairs=pairs[0], wire=wire, said="\n".join(said), report=report, folders=folders
    )


def steals(sites: Sites, runs: Path, said: list[str]) -> None:
    """Own code that prints rows, raises them, and returns them as an array; every refusal is kept."""
    sites.add_user(BOB, "scientist", BOB_PASSWORD)
    bob = fedrec.connect(sites.consortium, BOB, BOB_PASSWORD)
    owners = {name: login(site, site.owner, site.owner_password) for name, site in sites.all.items()}
    for last in ("pass", "raise ValueError(str(list(rows.rating)))"):
        plan = thief(last)
        approved(bob, owners, plan)
        with pytest.raises(Refused) as caught:
            bob.train(plan, folder=runs)
        said.append(f"{caught.value!r} {caught.value}")


def test_the_story_was_told_and_open_words_are_found_on_the_wire(told):
    """Without this, nothing found would mean nothing searched."""
    assert {row["verdict"] for row in told.report["audit"]} == {"ok"}
    assert len(told.wire) > 1_000_000
    assert all(word in told.wire for word in (b"mock-user", b"class MyFactors", b"softmax over all items"))
    assert "guard.name" in told.said
    assert re.search(r"jail\.error: [a-z-]+: the job ended with ValueError", told.said)


def test_no_canary_is_in_any_byte_on_the_sockets(told):
    assert told.search.found(told.wire) == set()


def test_no_canary_is_in_what_the_demo_said_nor_in_its_report(told, capfd):
    import rich.console

    rich.console.Console(width=400).print(*drawn(told.report))
    shown = capfd.readouterr()
    text = told.said + json.dumps(told.report) + shown.out + shown.err
    assert len(text) > 10_000
    assert told.search.found(text.encode()) == set()


def test_no_canary_is_in_any_file_outside_the_institutions_folders(told, places):
    outside = [path for path in told.search.files(places.root) if not any(map(path.is_relative_to, told.folders))]
    assert outside == []
    assert list(places.root.glob("runs/*/run.json"))  # the scientist's folder was searched


def test_inside_an_institution_rows_stay_in_its_data_and_its_store(told):
    """What own code prints goes to the owner's log of that job, by design: the search finds it there.

    The run ends with the first site that refuses, so that another one may be stopped before its job printed.
    """
    both = 0
    for folder in told.folders:
        found = {path.relative_to(folder).as_posix() for path in told.search.files(folder)}
        printed = {name for name in found if name.startswith("state/log/") and name != "state/log/site.jsonl"}
        assert 1 <= len(printed) <= 2
        both += len(printed) == 2
        rest = {name for name in found - printed if not name.startswith("state/store/")}
        assert rest == {"data/ratings.csv"}
    assert both


@pytest.mark.parametrize("guard", [True, False])
def test_a_plan_that_returns_rows_is_stopped_by_the_guard_and_without_it_caught_by_the_search(guard, told, places):
    """The control: the same search over the same kind of recording finds the rows when the guard is off."""
    folder = told.folders[0]
    site = (SiteProcess if guard else WeakSite)(
        folder.name, folder, f"owner@{folder.name}.example", owner_password(folder.name)
    )
    site.start()
    try:
        site.wait()
        if not guard:
            (folder / "state" / "without").write_text("guard")
        recorder = Recorder(int(site.url.rpartition(":")[2]))
        site.facts["url"] = f"http://127.0.0.1:{recorder.port}"
        bob, owner = login(site, BOB, BOB_PASSWORD), login(site, site.owner, site.owner_password)
        plan = real_sites.approve_one(bob, owner, thief("pass"), 80)
        answer = real_sites.run_task(bob, plan)
        if not guard:
            sha256 = answer["passport"]["sha256"]
            assert real_sites.own_route(bob, "GET", f"/fedrec/v1/blobs/{sha256}", permit=plan.id)[0] == 200
        for line in (bob, owner):
            line.line.close()
    finally:
        site.stop()
        (folder / "state" / "without").unlink(missing_ok=True)
    assert answer.get("code", "") == ("guard.name" if guard else "")
    found = told.search.found(bytes(recorder.bytes))
    assert {kind for kind in found if "f4" in kind} == (set() if guard else {"ratings as <f4 raw"})


@pytest.mark.parametrize("shift", range(3))
def test_control_the_search_finds_every_way_of_writing(shift, told):
    pair = told.search._ratings[[7, 3]]
    for word, kind in (
        (b"canary-user-aurora-u00001", "b'canary-user'"),
        (pair.tobytes(), "ratings as <f4"),
        (pair.astype("<f8").tobytes(), "ratings as <f8"),
        (str(pair[0]).encode(), "rating as text"),
        (told.search._ratings[5:300:7].astype("<f2").tobytes(), "ratings as <f2"),
        (told.search._ratings[5:300:7].astype(">f2").tobytes(), "ratings as >f2"),
        (told.pairs[:20].astype("<i4").tobytes(), "pairs as <i4"),
        (told.pairs[:20, 1].astype("<i8").tobytes(), "pairs as <i8"),
        ("canary-title-aurora-i".encode("utf-16-le"), "b'c\\x00a\\x00n\\x00a\\x00r\\x00y\\x00'"),
    ):
        assert f"{kind} raw" in told.search.found(b"x" * shift + word + b"y")
        padded = b"x" * shift + word + bytes(12)
        assert f"{kind} hex" in told.search.found(padded.hex().encode())
        assert f"{kind} base64" in told.search.found(b"z" * shift + base64.b64encode(padded))
        assert f"{kind} base64" in told.search.found(b'"' + base64.urlsafe_b64encode(padded))
    assert told.search.found(b"no canary at all" * 100) == set()
