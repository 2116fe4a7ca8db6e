"""One ordered story of a run from the packs of several institutions, who need not trust one another's clocks.

What orders events of two sites is cause: a round starts from a model that holds every site's update of the round
before. From the same follows how far two clocks can differ, without anybody measuring it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fedrec.errors import Refused
from fedrec.exchange.wire import canonical
from fedrec.institution.evidence import unpack
from fedrec.institution.evidence.find import Event
from fedrec.institution.evidence.reconcile import TASKS
from fedrec.institution.verdict import Verdict

_STEP = {"train": 0, "evaluate": 2, "publish": 3}  # within a round: train, fetch, evaluate, publish


@dataclass(frozen=True, slots=True)
class Told:
    """What one pack tells."""

    site: str
    facts: Mapping[str, Any]
    members: Mapping[str, str]
    events: list[Event]
    place: Path

    def task(self, act: str, number: int | None, *, done: bool) -> list[Event]:
        """The intents, or the good outcomes, of an act in a round; `number` None is any round."""
        outcome = "done" if done else "intent"
        return [
            event
            for event in self.events
            if (event["act"], event["outcome"]) == (act, outcome) and number in (None, event["round"])
        ]


def merge(places: Sequence[Path]) -> dict[str, Any]:
    """The packs' events in one order, with what they do not agree on.

    Returns:
        `run`, `plan`, `sites`, `events` (each with `site`, `ms` after the first and `step`), `rounds` by number,
        `clocks` for each two sites, `missing` counterparts, `clashes`, `verdicts` by site.

    Raises:
        Refused: `timeline.pack` when a pack cannot be read, is another run's, or a site's comes twice.
    """
    told = [_told(place) for place in places]
    verdicts = {one.site: _verdict(one, told) for one in told}
    if len({(one.facts["run"], one.facts["plan"]) for one in told}) != 1:
        raise Refused("timeline.pack", "the packs are of different runs or plans", "Give packs of one run")
    if len({one.site for one in told}) < len(told):
        raise Refused("timeline.pack", "two packs are of the same institution", "Give one pack of each")
    clocks = [_clock(one, other) for place, one in enumerate(told) for other in told[place + 1 :]]
    shifts = _shifts(told, clocks)
    events = _ordered(told, shifts)
    return {
        "run": told[0].facts["run"],
        "plan": told[0].facts["plan"],
        "sites": [one.site for one in told],
        "verdicts": {site: verdict.as_dict() for site, verdict in verdicts.items()},
        "rounds": _rounds(told),
        "clocks": clocks,
        "missing": _missing(told),
        "clashes": _clashes(told, clocks, verdicts),
        "events": events,
    }


def _told(place: Path) -> Told:
    try:
        with closing(unpack.Pack(place)) as pack:
            facts, members = pack.json("run.json"), pack.json("consortium.json")["members"]
            return Told(str(facts["site"]), facts, members, pack.events(told=True), place)
    except (unpack.BadPack, KeyError, TypeError, OSError) as error:
        raise Refused("timeline.pack", f"{place.name} is no pack: {error}", "Make it with fedrec audit pack") from None


def _verdict(one: Told, told: Sequence[Told]) -> Verdict:
    """The verdict on a pack, the others' packs being witnesses of what they saw up to where its log ends."""
    end = int(one.facts["checkpoint"])
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as seen:
        for event in (event for other in told for event in other.events if other is not one):
            if event["act"] == "witness" and event["detail"]["name"] == one.site and event["detail"]["size"] <= end:
                seen.write(canonical(event) + b"\n")
        seen.flush()
        return unpack.check(one.place, witnesses=[Path(seen.name)])


def _ms(at: str) -> int:
    return round(datetime.fromisoformat(at).timestamp() * 1000)


def _clock(one: Told, other: Told) -> dict[str, Any]:
    """How far the clock of `other` can be ahead of the one of `one`, in milliseconds; None where nothing bounds it."""
    most, least = _bound(one, other), _bound(other, one)
    low = None if least is None else -least
    possible = most is None or low is None or low <= most
    return {"sites": [one.site, other.site], "least_ms": low, "most_ms": most, "possible": possible}


def _bound(first: Told, then: Told) -> int | None:
    """The least time, by both clocks, between what `first` released and what `then` began because of it."""
    gaps = []
    for ended in first.task("train", None, done=True):
        after = then.task("train", ended["round"] + 1, done=False)
        for act in ("evaluate", "publish"):  # of the model that holds the update, not of the one before it
            same_round = then.task(act, ended["round"], done=False)
            after = after + [event for event in same_round if event["detail"]["base"] != ended["detail"]["base"]]
        gaps += [_ms(event["at"]) - _ms(ended["at"]) for event in after]
    return min(gaps, default=None)


def _shifts(told: Sequence[Told], clocks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Milliseconds to take from each site's clock for showing: the middle of what is possible; 0 when 0 is possible."""
    shifts = {told[0].site: 0}
    for clock in clocks:
        one, other = clock["sites"]
        low, high = clock["least_ms"], clock["most_ms"]
        if one == told[0].site:
            bounded = low is not None and high is not None and clock["possible"]
            shifts[other] = (low + high) // 2 if bounded and not low <= 0 <= high else 0
    return shifts


def _step(event: Event) -> tuple[int, int]:
    """Which part of the run an event belongs to; what names no round stays where its site's log has it."""
    if event["act"] in TASKS:
        return event["round"], 2 * _STEP[event["act"]] + (event["outcome"] != "intent")
    return (-1, 0) if event["act"] in ("submit", "approve", "deny") else (-1, 1)


def _ordered(told: Sequence[Told], shifts: Mapping[str, int]) -> list[dict[str, Any]]:
    rows = []
    for one in told:
        step = (-1, 0)
        for event in one.events:
            step = max(step, _step(event))  # a log's own order stands, whatever its clock says
            rows.append((step, _ms(event["at"]) - shifts[one.site], one.site, event))
    rows.sort(key=lambda row: (row[0], row[1], row[2], row[3]["seq"]))
    kept: dict[str, int] = {}
    began = min((row[1] for row in rows), default=0)
    found = []
    for step, at, site, event in rows:
        kept[site] = max(kept.get(site, at), at)
        found.append({**event, "site": site, "ms": kept[site] - began, "step": list(step)})
    found.sort(key=lambda row: (row["step"], row["ms"], row["site"], row["seq"]))
    return found


def _rounds(told: Sequence[Told]) -> list[dict[str, Any]]:
    numbers = sorted({event["round"] for one in told for event in one.task("train", None, done=False)})
    rounds = []
    for number in numbers:
        ends = {one.site: event for one in told for event in one.task("train", number, done=True)}
        bases = {event["detail"]["base"] for one in told for event in one.task("train", number, done=False)}
        rounds.append({
            "round": number,
            "base": bases.pop() if len(bases) == 1 else "",
            "updates": {site: event["detail"]["sha256"] for site, event in ends.items()},
            "ms": {site: event["detail"]["ms"] for site, event in ends.items()},
        })  # fmt: skip
    return rounds


def _missing(told: Sequence[Told]) -> list[str]:
    """What one pack speaks of and another lacks."""
    known, found = {one.site for one in told}, []
    partners = {event["detail"].get("name", "") for one in told for event in one.events if event["act"] == "witness"}
    for name in sorted(set(told[0].members) - known):
        sure = "took part" if name in partners else "is a member; whether it took part, these packs do not say"
        found.append(f"no pack of {name}, which {sure}")
    for act in TASKS:
        for number in sorted({event["round"] for one in told for event in one.task(act, None, done=True)}):
            have = [one.site for one in told if one.task(act, number, done=True)]
            found += [
                f"{one.site} has no {act} of round {number}, {have[0]} has" for one in told if one.site not in have
            ]
    for one in told:
        fetched = {event["object"] for event in one.events if event["act"] == "fetch" and event["outcome"] == "done"}
        for event in one.task("train", None, done=True):
            if event["detail"]["sha256"] not in fetched:
                found.append(f"{one.site}: nobody fetched the update of round {event['round']}")
    return found


def _clashes(told: Sequence[Told], clocks: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Verdict]) -> list[str]:
    """What cannot all be true."""
    found = [f"{site}: {verdict.sentence()}" for site, verdict in verdicts.items() if verdict.verdict != "ok"]
    for clock in clocks:
        if not clock["possible"]:
            first, second = clock["sites"]
            found.append(f"no two steady clocks give the times of {first} and {second}: an event is dated wrongly")
    for number in sorted({event["round"] for one in told for event in one.task("train", None, done=False)}):
        bases = {one.site: event["detail"]["base"] for one in told for event in one.task("train", number, done=False)}
        if len(set(bases.values())) > 1:
            found.append(f"round {number} started from different models: {', '.join(sorted(bases))}")
    for one in told:
        for event in one.events:
            if event["act"] == "witness" and event["outcome"] == "clash":
                found.append(f"{one.site} was shown another history of {event['object']} than before")
    return found


def text_of(story: Mapping[str, Any]) -> str:
    """The story for a person."""
    lines = [f"run {story['run']}, plan {story['plan'][:16]}, as {', '.join(story['sites'])} tell it", ""]
    for row in story["events"]:
        number = "" if row["round"] is None else f"round {row['round']}"
        what = row["detail"].get("sha256", "")[:16] if row["outcome"] == "done" else ""
        lines.append(
            f"{row['ms'] / 1000:9.3f} s  {row['site']:14} {row['actor']:24} {row['act']:10} {number:9} "
            f"{row['outcome']:12} {what}".rstrip()
        )
    lines += ["", "Clocks"]
    for clock in story["clocks"]:
        one, other = clock["sites"]
        low, high = ("?" if clock[key] is None else f"{clock[key]:+d} ms" for key in ("least_ms", "most_ms"))
        lines.append(f"  {other} is ahead of {one} by {low} to {high}" + ("" if clock["possible"] else ": IMPOSSIBLE"))
    for name in ("missing", "clashes"):
        lines += ["", name.capitalize(), *(f"  {one}" for one in story[name] or ["nothing"])]
    return "\n".join(lines)


def figure_of(story: Mapping[str, Any]) -> Any:
    """The story as a matplotlib figure: a lane for each site; left all of it, right the rounds alone."""
    import matplotlib.pyplot as plt

    sites, tasks = list(story["sites"]), [row["ms"] / 1000 for row in story["events"] if row["act"] in TASKS]
    figure, (whole, rounds) = plt.subplots(
        1, 2, figsize=(12, 0.6 * len(sites) + 1.8), sharey=True, layout="constrained", width_ratios=(1, 2)
    )
    for axes in (whole, rounds):
        _draw(axes, story, sites)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("seconds since the first event")
    margin = 0.03 * (max(tasks, default=1.0) - min(tasks, default=0.0)) + 0.05
    rounds.set(xlim=(min(tasks, default=0.0) - margin, max(tasks, default=1.0) + margin), title="its rounds")
    whole.set_title(f"run {story['run']}")
    whole.set_yticks(range(len(sites)), sites)
    whole.invert_yaxis()
    figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return figure


_BARS = {"train": "#2a6fbb", "evaluate": "#3d9a6c", "publish": "#8a5fbf"}
_MARKS = {"submit": ("o", "#444444"), "approve": ("^", "#3d9a6c"), "revoke": ("v", "#c0392b")}


def _draw(axes: Any, story: Mapping[str, Any], sites: list[str]) -> None:
    begun: dict[tuple[str, int], float] = {}
    named: set[str] = set()
    for row in story["events"]:
        lane, at, act = sites.index(row["site"]), row["ms"] / 1000, row["act"]
        label = {} if act in named else {"label": act}
        if act in _BARS and row["outcome"] == "intent":
            begun[row["site"], row["seq"]] = at
        elif act in _BARS and (since := begun.get((row["site"], row["of"]))) is not None:
            colour = _BARS[act] if row["outcome"] == "done" else "#c0392b"
            axes.barh(lane, max(at - since, 0.01), left=since, height=0.5, color=colour, **label)
            named.add(act)
        elif act in _MARKS and row["outcome"] == "done":
            mark, colour = _MARKS[act]
            axes.plot(at, lane, mark, color=colour, markersize=8, linestyle="", **label)
            named.add(act)
