"""A doubly masked round ended at real datasites, whichever of them are lost meanwhile: exchange/recovery.py."""

from __future__ import annotations

import base64
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedrec.core.params import Array
from fedrec.errors import Refused
from fedrec.exchange.recovery import rows_of, threshold, unlocked
from fedrec.exchange.secure_sum import add
from fedrec.exchange.wire import canonical
from fedrec.scientist.federation import Answer, RoundTask, SiteRefused

if TYPE_CHECKING:
    from fedrec.scientist.datasites import Datasites

Said = dict[str, dict[str, Any]]
_log = logging.getLogger("fedrec")


def recovered(
    federation: Datasites, task: RoundTask, answers: Sequence[Answer], again: bool
) -> tuple[list[Answer], list[dict[str, Array]]]:
    """The answers that were summed, and their sum: over all whose update came, or who were agreed on before.

    Args:
        again: a driver before this one may have begun with the round.

    Raises:
        SiteRefused: too few of the members are left; what the first lost one says.
    """
    members, need = task.members, threshold(len(task.members))
    came, lost = _each(federation, answers, lambda answer: federation.fetch(answer))
    if len(came) < need:
        raise lost[0]
    given = {site: rows_of(ring, len(members)) for site, (_, ring) in came.items()}
    there = {site: answer for site, (answer, _) in came.items()}

    def ask(wishes: Mapping[str, dict[str, Any]]) -> tuple[Said, list[SiteRefused]]:
        """What those say who can be asked; counts the bytes."""

        def one(answer: Answer) -> tuple[Answer, bytes]:
            return federation.ask_about(answer, "unmask", canonical(wishes[answer.site]))

        found, gone = _each(federation, [there[site] for site in wishes], one)
        there.update({site: answer for site, (answer, _) in found.items()})
        return {site: json.loads(said) for site, (_, said) in found.items()}, gone

    among, signatures = _agreed(ask, list(given), need, again)
    if gone := [site for site in among if site not in given]:
        reason = f"the others have agreed to a sum with {', '.join(gone)}, whose update did not come now"
        raise SiteRefused(gone[0], Refused("site.lost", reason, "Resume the run when it can be reached"))
    at = {reader: members.index(reader) for reader in signatures}
    rows = {
        reader: {site: base64.b64encode(given[site][1][at[reader]]).decode() for site in among} for reader in signatures
    }
    wishes = {reader: {"among": among, "signatures": signatures, "rows": rows[reader]} for reader in signatures}
    said, gone_now = ask(wishes)
    if len(said) < need:
        raise gone_now[0]
    total = add(task.plan.spec, [given[site][0] for site in among], federation.n_items)
    if len(among) < len(members):
        _log.warning("round %d is summed over %s", task.number, ", ".join(among))
    told = {reader: dict(what["told"]) for reader, what in said.items()}
    return [there[site] for site in among], [unlocked(total, members, among, told)]


def _agreed(
    ask: Callable[[Mapping[str, dict[str, Any]]], tuple[Said, list[SiteRefused]]],
    there: list[str],
    need: int,
    again: bool,
) -> tuple[list[str], dict[str, str]]:
    """The set that enough members have signed, and their signatures: the one of a driver before this one, if any.

    Raises:
        SiteRefused: too few answer, or they have signed different sets.
    """
    among = there
    if again:
        found, _ = ask({site: {"among": []} for site in there})
        signed = Counter(tuple(what["among"]) for what in found.values() if what["among"])
        among = list(signed.most_common(1)[0][0]) if signed else there
    said, lost = ask({site: {"among": among} for site in among if site in there})
    signatures = {site: str(what["signature"]) for site, what in said.items() if what["among"] == among}
    if len(signatures) < need:
        reason = f"{len(signatures)} institutions agree whose sum this is, and {need} are needed"
        raise lost[0] if lost else SiteRefused(there[0], Refused("sum.unmask", reason, "Start a new run"))
    return among, signatures


def _each(
    federation: Datasites, answers: Sequence[Answer], call: Callable[[Answer], Any]
) -> tuple[dict[str, Any], list[SiteRefused]]:
    """What a call gives at each site, all at once, and the refusals of the others."""

    def one(answer: Answer) -> Any:
        try:
            return call(answer)
        except SiteRefused as refusal:
            return refusal

    found = dict(zip((answer.site for answer in answers), federation._pool.map(one, answers), strict=True))
    lost = [refusal for refusal in found.values() if isinstance(refusal, SiteRefused)]
    return {site: got for site, got in found.items() if not isinstance(got, SiteRefused)}, lost
