"""A site folder of 30 rows with everything but PySyft: store, ledger, audit log, permits."""

from __future__ import annotations

import asyncio
import secrets
import textwrap
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nacl.signing import SigningKey

import fedrec
from fedrec.core.params import Array
from fedrec.exchange.plan import PlanText, Tensor, fingerprint
from fedrec.exchange.wire import encode, sha256
from fedrec.institution import audit
from fedrec.institution.decisions import Decisions
from fedrec.institution.intake import take_in_folder
from fedrec.institution.jobs import Jobs
from fedrec.institution.ledger import Account, RequestRow
from fedrec.institution.site import Site

ITEMS = [f"film-{number}" for number in range(8)]
OWNER = Account("owner@a.example", "0a" * 32, "owner", True)
KEY = SigningKey(b"scientist".ljust(32, b"."))
SCIENTIST = Account("sci@lab.example", KEY.verify_key.encode().hex(), "scientist", True)
LIMITS = "own_code = true\nmegabytes = 1\nminutes = 0.05\nmemory_mb = 1024\n"
OWN = """
class Attack:
    def init(self, n_items, seed):
        return {{"v": np.zeros(n_items)}}

    def fit_site(self, rows, shared, private):
{train}
        return {{"v": np.ones(rows.n_items)}}, {{}}

    def score(self, rows, shared, private):
{score}
        return np.zeros((rows.n_users, rows.n_items))
"""


def make_site(root: Path, limits: str = LIMITS, name: str = "a") -> Site:
    """Six users touch five of eight films each: user u touches films u..u+4 (mod 8), oldest first."""
    folder = root / name
    (folder / "data").mkdir(parents=True)
    (root / "items.csv").write_text("item\n" + "".join(f"{item}\n" for item in ITEMS))
    (root / "consortium.toml").write_text(f'name = "c"\ntitle = "C"\n[[member]]\nname = "{name}"\nfolder = "{name}"\n')
    (folder / "site.toml").write_text(f'name = "{name}"\ntitle = "A"\nowner = "owner@a.example"\n[limits]\n{limits}')
    (folder / "DATASHEET.md").write_text("# A\n")
    (folder / "schema.toml").write_text(
        'title = "T"\n[columns]\nuser = "user"\nitem = "item"\nrating = "rating"\ntime = "timestamp"\n'
        "[rating]\nmin = 1\nmax = 5\n"
    )
    rows = [f"canary-{user},{ITEMS[(user + step) % 8]},4,{1000 + step}\n" for user in range(6) for step in range(5)]
    (folder / "data" / "ratings.csv").write_text("user,item,rating,timestamp\n" + "".join(rows))
    take_in_folder(folder)
    return Site.open(folder)


def recipe(which: str = "ease", model: Mapping[str, Any] | None = None, **asks: Any) -> PlanText:
    """A plan with a built-in model of one round."""
    leaves = {"ease": "float32 items x items", "popularity": "float32 items", "mf": "float32 items x 4"}[which]
    array = {"ease": "gram", "popularity": "counts", "mf": "items"}[which]
    settings = dict(model or ({"l2": 200.0} if which == "ease" else {}))
    settings |= {"factors": 4} if which == "mf" else {}
    given = {"rounds": 1, "runs": 2, "train": ("p1",), "evaluate": True, "publish": True, **asks}
    return PlanText(
        name=given.pop("name", which), purpose="P", model={"name": which, **settings},
        aggregator={"name": "adam" if which == "mf" else "sum"}, leaves={array: Tensor.parse(leaves)},
        fedrec=fedrec.__version__, **given,
    )  # fmt: skip


def own(train: str = "        pass", score: str = "        pass", **asks: Any) -> PlanText:
    """A plan whose own code runs these lines inside fit_site and score."""
    given = {"name": "own", "rounds": 9, "runs": 1, "train": ("p1",), "evaluate": True, **asks}
    code = OWN.format(train=_indented(train), score=_indented(score))
    return PlanText(
        purpose="P", model={"name": "own", "class": "Attack", "code": code}, aggregator={"name": "mean"},
        leaves={"v": Tensor.parse("float32 items")}, fedrec=fedrec.__version__, **given,
    )  # fmt: skip


def _indented(lines: str) -> str:
    return textwrap.indent(textwrap.dedent(lines).strip("\n"), " " * 8)


def submitted(site: Site, plan: PlanText, by: Account = SCIENTIST) -> RequestRow:
    """The request of a plan, as the site records it once PySyft has taken it."""
    text = plan.text()
    Decisions(site, Jobs(site, Idle())).submitted(by, text, plan, secrets.token_hex(16), secrets.token_hex(16))
    row = site.ledger.request_of(by.key, fingerprint(text))
    assert row is not None
    return row


def approved(site: Site, plan: PlanText, **limits: Any) -> RequestRow:
    """A request with a live permit."""
    row = submitted(site, plan)
    Decisions(site, Jobs(site, Idle())).approve(OWNER, row.id, limits, lambda: True)
    row = site.ledger.request(row.id)
    assert row is not None
    return row


class Idle:
    """What Decisions needs where no job runs."""

    level = 2

    def run(self, *_: Any) -> Any:
        raise AssertionError("no job was expected")

    def kill(self, job: str) -> None: ...


def sent(site: Site, row: RequestRow, tensors: Mapping[str, Array]) -> str:
    """Put a model into the site's data plane and return its SHA-256."""
    data = encode(tensors)

    async def parts() -> AsyncIterator[bytes]:
        yield data

    asyncio.run(site.blobs.receive(row.id, sha256(data), parts(), 10**9))
    return sha256(data)


def task(
    base: str, kind: str = "train", run: str = "r", number: int = 0, protocol: str = "p1", nonce: str = ""
) -> dict[str, Any]:
    """A task as the driver sends it, with a fresh nonce unless one is given."""
    return {
        "kind": kind, "run": run, "round": number, "protocol": protocol, "base": base,
        "nonce": nonce or secrets.token_hex(16),
    }  # fmt: skip


START = {"counts": np.zeros(8, dtype=np.float32)}  # what EASE and popularity start from
VECTOR = {"v": np.zeros(8, dtype=np.float32)}  # what the own code above starts from


def train(site: Site, jobs: Jobs, row: RequestRow, start: Mapping[str, Array] = START, **more: Any) -> dict[str, Any]:
    """One train task, waited for; the answer, or the refusal as an answer."""
    return ended(site, jobs, row, task(sent(site, row, start), **more))


def ended(site: Site, jobs: Jobs, row: RequestRow, raw: Mapping[str, Any], seconds: float = 20.0) -> dict[str, Any]:
    """Start a task and wait for its end."""
    answer = jobs.start(row.key, row.fingerprint, raw)
    if answer["status"] == "running":
        answer = asyncio.run(jobs.wait(answer["key"], seconds))
    return answer


def events(site: Site, act: str = "train") -> list[str]:
    """The outcomes of an act in the audit log, oldest first."""
    return [event["outcome"] for event in audit.read(site.audit.path) if event["act"] == act]
