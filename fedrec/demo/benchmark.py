"""What a round over real datasites costs, beside the floor of bare HTTP in the same run: `fedrec benchmark rounds`."""

from __future__ import annotations

import contextlib
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from fedrec import models
from fedrec.datasets import synthetic
from fedrec.demo.floor import Floor
from fedrec.demo.grpc_floor import GrpcFloor, available
from fedrec.demo.sites import SCIENTIST, SiteProcess, Sites, prepare
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.secure_sum import FEW as FEWEST
from fedrec.scientist.connect import connect
from fedrec.scientist.datasites import Datasites
from fedrec.scientist.driver import Round
from fedrec.scientist.plan import Plan

PAYLOADS_MB = (0.1, 1.0, 16.0)
LONG_ROUNDS, LONG_MB, EARLY, FEW = 300, 0.1, 10, 10
Say = Callable[[str], object]

_CONSORTIUM = 'name = "benchmark"\ntitle = "Made-up institutions"\ncatalogue = "items.csv"\n'
_MEMBER = '\n[[member]]\nname = "{name}"\nfolder = "{name}"\n'
_SITE = """
name = "{name}"
title = "Made-up institution"
owner = "owner@{name}.example"

[limits]
allow_echo = true   # the model that only sends back what it got
"""
_SCHEMA = """
title = "Made-up ratings"

[columns]
user = "user"
item = "item"
rating = "rating"
time = "timestamp"

[rating]
min = 1.0
max = 5.0

[mock]
"""


@dataclass(frozen=True)
class Options:
    """What `fedrec benchmark rounds` was asked for.

    Args:
        sites: how many institutions.
        payloads: MB (10**6 bytes) that go down to each site and up from it, per round.
        repeats: rounds per payload that are counted, after one that is not.
        long: also 300 rounds at 0.1 MB, with each site's memory.
    """

    sites: int = 4
    payloads: Sequence[float] = PAYLOADS_MB
    repeats: int = 20
    long: bool = False


def rounds(options: Options, say: Say) -> dict[str, Any]:
    """Start sites on generated data, measure, shut everything down; the JSON of contracts.md."""
    with tempfile.TemporaryDirectory(prefix="fedrec-benchmark-") as folder:
        work = Path(folder)
        make_consortium(work / "source", options.sites)
        synthetic(work / "data", users=40 * options.sites, items=80)
        prepare(work / "source", work / "sites", work / "data")
        sites = Sites(work / "sites", lambda _: secrets.token_urlsafe(12))
        one = _start_one(next(iter(sites.all.values())))
        say(f"one site answers after {one:.1f} s")
        began = time.monotonic()
        with sites:
            every = time.monotonic() - began
            say(f"{options.sites} sites answer after {every:.1f} s")
            report: dict[str, Any] = {"rows": _rows(sites, options, say)}
            if options.long:
                report["after_300"] = _long(sites, say)
    return {**report, "start": {"one_site_seconds": round(one, 2), "all_sites_seconds": round(every, 2)}}


def make_consortium(folder: Path, sites: int) -> None:
    """A consortium's files for made-up institutions that allow the echo model."""
    folder.mkdir(parents=True)
    names = [f"site-{number + 1}" for number in range(sites)]
    (folder / "consortium.toml").write_text(_CONSORTIUM + "".join(_MEMBER.format(name=name) for name in names))
    for name in names:
        (folder / name).mkdir()
        (folder / name / "site.toml").write_text(_SITE.format(name=name))
        (folder / name / "schema.toml").write_text(_SCHEMA)
        (folder / name / "DATASHEET.md").write_text(f"# {name}\n\nGenerated; nobody's ratings.\n")


def drawn(report: Mapping[str, Any]) -> Table:
    """The rows as a table for a terminal."""
    table = Table(title="One round over all institutions (median)", title_justify="left")
    for column in (
        "MB each way",
        "institutions",
        "seconds",
        "secure sum",
        "bare HTTP",
        "bare gRPC",
        "ratio",
        "repeats",
    ):
        table.add_column(column, justify="right")
    for row in report["rows"]:
        figures = (
            f"{row['payload_mb']:g}",
            str(row["institutions"]),
            f"{row['seconds']:.3f}",
            "-" if row["secure_seconds"] is None else f"{row['secure_seconds']:.3f}",
            f"{row['floor_seconds']:.4f}",
            "-" if row["grpc_seconds"] is None else f"{row['grpc_seconds']:.4f}",
        )
        table.add_row(*figures, f"{row['ratio']:.0f}", str(row["repeats"]))
    return table


def in_words(report: Mapping[str, Any]) -> str:
    """What the table does not say: start and long run."""
    start = report["start"]
    lines = [f"first start: one site {start['one_site_seconds']:.1f} s, all {start['all_sites_seconds']:.1f} s"]
    if after := report.get("after_300"):
        memory = f"{after['pss_mb_round_10']:.0f} MB after round 10, {after['pss_mb_round_300']:.0f} MB after round 300"
        lines.append(f"a site with its jail: {memory}")
        early, late = after["call_seconds_first_10"], after["call_seconds_last_10"]
        lines.append(f"a round: {early:.3f} s in the first ten, {late:.3f} s in the last ten")
    return "\n".join(lines)


def _start_one(site: SiteProcess) -> float:
    """Seconds from the command to a site's answer; the site is stopped again."""
    began = time.monotonic()
    site.start()
    try:
        site.wait()
        return time.monotonic() - began
    finally:
        site.stop()


def _rows(sites: Sites, options: Options, say: Say) -> list[dict[str, Any]]:
    password = secrets.token_urlsafe(12)
    sites.add_user(SCIENTIST, "scientist", password)
    federation = connect(sites.consortium, SCIENTIST, password)
    found = []
    if not available():
        say("no bare gRPC beside it: grpcio is not installed")
    with Floor(options.sites) as floor, contextlib.ExitStack() as more:
        grpc = more.enter_context(GrpcFloor(options.sites)) if available() else None
        for megabytes in options.payloads:
            seconds = _median(federation, _approved(sites, federation, megabytes, options.repeats + 1))
            masked = None
            if options.sites >= FEWEST:
                secret = _approved(sites, federation, megabytes, options.repeats + 1, Privacy("secure"))
                masked = _median(federation, secret)
            payload = bytes(round(megabytes * 1e6))
            bare, other = _bare(floor, payload, options.repeats), grpc and _bare(grpc, payload, options.repeats)
            beside = "" if other is None else f", bare gRPC {other:.4f} s"
            hidden = "" if masked is None else f", {masked:.3f} s under the secure sum"
            say(f"{megabytes:g} MB: {seconds:.3f} s a round{hidden}, bare HTTP {bare:.4f} s{beside}")
            found.append(
                {
                    "payload_mb": megabytes, "institutions": options.sites, "seconds": round(seconds, 4),
                    "floor_seconds": round(bare, 5), "grpc_seconds": other and round(other, 5),
                    "ratio": round(seconds / bare, 1), "repeats": options.repeats,
                    "secure_seconds": masked and round(masked, 4),
                    "secure_ratio": masked and round(masked / seconds, 2),
                }
            )  # fmt: skip
    return found


def _median(federation: Datasites, plan: Plan) -> float:
    """Seconds of a round; the first one is not counted."""
    return statistics.median(_timed(federation, plan)[1:])


def _bare(floor: Floor, payload: bytes, repeats: int) -> float:
    """Seconds, median; the first one opens the connections."""
    return statistics.median([floor.round(payload) for _ in range(repeats + 1)][1:])


def _long(sites: Sites, say: Say) -> dict[str, Any]:
    """300 rounds in one run. Memory is the largest site's; a call is a round over all sites, median of ten."""
    password = secrets.token_urlsafe(12)
    sites.add_user("bob@lab.example", "scientist", password)
    federation = connect(sites.consortium, "bob@lab.example", password)
    memory: dict[int, float] = {}

    def look(number: int) -> None:
        if number in (EARLY, LONG_ROUNDS):
            memory[number] = max(pss_mb(site.process.pid) for site in sites.all.values() if site.process)
            say(f"round {number}: {memory[number]:.0f} MB")

    seconds = _timed(federation, _approved(sites, federation, LONG_MB, LONG_ROUNDS), look)
    return {
        "pss_mb_round_10": round(memory[EARLY], 1),
        "pss_mb_round_300": round(memory[LONG_ROUNDS], 1),
        "call_seconds_first_10": round(statistics.median(seconds[:FEW]), 4),
        "call_seconds_last_10": round(statistics.median(seconds[-FEW:]), 4),
    }


def _approved(
    sites: Sites, federation: Datasites, megabytes: float, number: int, privacy: Privacy | None = None
) -> Plan:
    """An echo plan that every owner has approved with PySyft's own client."""
    from fedrec.scientist.syft_client import SyftSite, quiet

    plan = Plan(
        model=models.create("echo", {"megabytes": megabytes}), rounds=number, purpose="Measure what a round costs",
        privacy=privacy, fixed={"payload": (20, 32)} if privacy else None,
    )  # fmt: skip
    requests = federation.submit(plan)
    with quiet():
        for name, request in requests.ids.items():
            site = sites.all[name]
            SyftSite(name, site.url, site.owner, site.owner_password).approve(request)
    return plan


def _timed(federation: Datasites, plan: Plan, look: Callable[[int], object] = lambda _: None) -> list[float]:
    """Wall seconds of each round, from the end of the one before: send, call, fetch, check, merge, log."""
    found: list[float] = []
    last = [time.monotonic()]

    def ended(done: Round, total: int) -> None:  # noqa: ARG001
        found.append(time.monotonic() - last[0])
        look(done.number + 1)
        last[0] = time.monotonic()

    federation.train(plan, on_round=ended)
    return found


def pss_mb(pid: int) -> float:
    """Proportional memory of a process and all its descendants, in MB (10**6 bytes); Linux only."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended while we looked
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(_pss_kb(member) for member in family) * 1024 / 1e6


def _pss_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
