"""`fedrec audit`: read, search and verify a site's log."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedrec.cli import audit_run
from fedrec.cli.output import emit, emit_many, json_option, say
from fedrec.errors import WrongInput

if TYPE_CHECKING:
    from fedrec.institution.evidence.find import Wanted

log_argument = click.argument("place", metavar="DIR|FILE", type=click.Path(exists=True, path_type=Path))


@click.group()
def audit() -> None:
    """Read and verify a site's audit log, with or without the site."""


for one in (audit_run.pack, audit_run.timeline, audit_run.replay, audit_run.reconcile, audit_run.redact):
    audit.add_command(one)


def filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose events; they reach the command as keywords of `_wanted`."""
    for option in reversed(
        (
            click.option("--who", default="", metavar="WHO", help="Events of an e-mail or of a role."),
            click.option("--act", default="", metavar="ACT", help="Events of an act, such as train or users.*"),
            click.option("--request", default="", metavar="ID", help="Events about a request, by its first digits."),
            click.option("--run", default="", metavar="RUN", help="Events of one run."),
            click.option("--outcome", default="", metavar="OUT", help="done, a code, or refused for any refusal."),
            click.option("--since", default="", metavar="TIME", help="From this ISO time or date on, in UTC."),
            click.option("--until", default="", metavar="TIME", help="Before this ISO time, or up to this date's end."),
        )
    ):
        command = option(command)
    return command


def _wanted(**given: str) -> Wanted:
    from fedrec.institution.evidence.find import Wanted, moment

    since, until = given.pop("since"), given.pop("until")
    return Wanted(**given, since=moment(since) if since else "", until=moment(until, end=True) if until else "")


@audit.command()
@log_argument
@filters
@click.option("--follow", is_flag=True, help="Go on with new events as they are written, until Ctrl-C.")
@json_option
def log(place: Path, follow: bool, target: str | None, **given: str) -> None:
    """Print the events of the log below DIR, or in FILE; with --follow and --json one JSON object a line."""
    from fedrec.institution.evidence import find, index

    wanted = _wanted(**given)
    if follow:
        if target not in (None, "-"):
            raise WrongInput("--follow prints; it writes no file")
        click.echo(find.HEAD) if target is None else None
        for event in find.follow(place, wanted):
            click.echo(find.line_of(event) if target is None else json.dumps(event, ensure_ascii=False))
        return
    events = index.search(place, wanted, say)
    emit_many("events", events, target, find.HEAD, find.line_of)


@audit.command()
@log_argument
@filters
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "cef", "ocsf"]),
    default="csv",
    show_default=True,
    help="As what: for a spreadsheet, as the log, or for a security tool.",
)
@click.option("--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The file to write.")
@json_option
def export(place: Path, form: Any, out: Path, target: str | None, **given: str) -> None:
    """Write events into a file as CSV, JSON lines, CEF or OCSF; exporting a site's own log is an event in it."""
    from fedrec.institution.evidence import export as exports
    from fedrec.institution.evidence.find import events_of
    from fedrec.institution.local import local_act

    wanted = _wanted(**given)
    own = place.is_dir() and (place / "state" / "audit").is_dir()
    with local_act(place, "export", "log", detail={"form": form}) if own else nullcontext():
        try:
            with out.open("w", encoding="utf-8", newline="") as file:
                count = exports.write(events_of(place, wanted), form, file)
        except OSError as error:
            raise WrongInput(f"{out}: cannot be written ({error.strerror})") from None
    emit({"file": str(out), "format": form, "events": count}, target, text=f"{out}: {count} events")


@audit.command()
@click.argument("url", metavar="URL")
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--ca", metavar="FILE", type=click.Path(exists=True, path_type=Path), help="The CA of the site's proxy.")
@json_option
def fetch(url: str, file: Path, ca: Path | None, target: str | None) -> None:
    """Copy the log of the site at URL into FILE, as FEDREC_USER over the network, and verify the copy.

    A FILE that is there goes on where it ends: if the site's log is not the one that was copied before, the chain
    breaks there and the exit code is 3.
    """
    from fedrec.cli.requests import account, login
    from fedrec.exchange.wire import canonical
    from fedrec.institution.audit import read
    from fedrec.institution.audit import verify as check
    from fedrec.institution.texts import beside

    last = -1
    for event in read(file) if file.exists() else ():
        last = event["seq"]
    site = login(url, url, *account(), ca)
    try:
        with file.open("ab") as copy:
            for page in site.pages(last):
                beside(file.parent, page["texts"])
                copy.writelines(canonical(event) + b"\n" for event in page["events"])
    except OSError as error:
        raise WrongInput(f"{file}: cannot be written ({error.strerror})") from None
    verdict = check(file)
    emit({"file": str(file), **verdict.as_dict()}, target, text=f"{file}: {verdict.sentence()}")
    sys.exit(0 if verdict.verdict == "ok" else 3)


@audit.command()
@log_argument
@click.option("--from", "since", required=True, metavar="TIME", help="From this ISO time or date on, in UTC.")
@click.option("--to", "until", required=True, metavar="TIME", help="Before this ISO time, or up to this date's end.")
@json_option
def access(place: Path, since: str, until: str, target: str | None) -> None:
    """Say who could see what between two dates, and what each saw, from the log alone."""
    from fedrec.institution.evidence.access import access_of, text_of
    from fedrec.institution.evidence.find import events_of, moment

    found = access_of(events_of(place), moment(since), moment(until, end=True))
    emit(found, target, text=text_of(found))


@audit.command()
@audit_run.site_argument
@click.option(
    "--check", is_flag=True, help="Only compare the index with the log, event by event; exit 3 if it differs."
)
@json_option
def index(folder: Path, check: bool, target: str | None) -> None:
    """Make DIR's search index anew from its log, or compare it with the log."""
    from fedrec.institution.evidence import index as indexes

    if check:
        differs = indexes.check(folder)
        emit({"index": str(indexes.place_of(folder)), "same": not differs, "reason": differs}, target,
             text=differs or "the index says what the log says")  # fmt: skip
        sys.exit(3 if differs else 0)
    count = indexes.build(folder)
    emit({"index": str(indexes.place_of(folder)), "events": count}, target, text=f"{count} events indexed")


@audit.command()
@log_argument
@click.option("--witness", "witnesses", multiple=True, metavar="OTHER", type=click.Path(exists=True, path_type=Path),
              help="The log of another institution, or another copy of this one; repeatable.")  # fmt: skip
@click.option("--key", default="", metavar="HEX", help="The site's public key, as fedrec site keys prints it.")
@click.option("--consortium", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The consortium's TOML, which pins the keys.")  # fmt: skip
@json_option
def verify(place: Path, witnesses: tuple[Path, ...], key: str, consortium: Path | None, target: str | None) -> None:
    """Check that no event was changed, moved or taken out; exit 0 ok, 3 tampered or a clash, 2 unreadable.

    A witness that holds nothing of the log, or is not whole itself, ends in 2 too. Without --key and --consortium the
    consortium of DIR pins the key; where there is none, the line says which key to compare. FILE may be an evidence
    pack: then every file of it is checked.
    """
    from fedrec.config import ConsortiumConfig, SiteConfig
    from fedrec.institution.audit import verify as check
    from fedrec.institution.evidence import unpack
    from fedrec.institution.evidence.export import not_a_log
    from fedrec.institution.verdict import Verdict

    pinned = None if consortium is None else ConsortiumConfig.load(consortium).keys
    if not key and pinned is None and (place / "site.toml").exists():
        own = SiteConfig.load(place / "site.toml")
        key = next((m.key for m in ConsortiumConfig.load(own.consortium_path).member if m.name == own.name), "")
    if why := not_a_log(place):
        verdict = Verdict("unreadable", 0, None, why)
    else:
        verdict = (unpack.check if unpack.is_pack(place) else check)(place, key, witnesses, pinned)
    emit(verdict.as_dict(), target, text=verdict.sentence())
    sys.exit(verdict.code)
