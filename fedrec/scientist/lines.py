"""What a run's folder says about each round, and about the model at the end."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedrec.aggregation.merge import norm
from fedrec.core.metrics import Sums
from fedrec.core.outcomes import Outcomes
from fedrec.core.params import SharedParams, moved
from fedrec.exchange.accountant import epsilon_of
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.wire import digest
from fedrec.scientist.driver import Round
from fedrec.scientist.federation import Answer

if TYPE_CHECKING:
    import pandas as pd


def line_of(run: str, before: SharedParams, done: Round) -> dict[str, Any]:
    """A round's line in rounds.jsonl."""
    line: dict[str, Any] = {
        "run": run,
        "round": done.number,
        "sites": list(done.sites),
        "bytes_up": sum(a.bytes_up for a in done.answers),
        "bytes_down": sum(a.bytes_down for a in done.answers),
        "seconds": round(done.seconds, 4),
        "weights": {a.site: a.update.weight for a in done.answers if a.update},
        "norm": _change(before, done.after.shared),
        "epsilon": None,  # of the run so far, where the plan has one; see Run.epsilon
        "updates": {a.site: a.receipt.get("sha256", "") for a in done.answers},
        "model": digest(done.after.shared.tensors),
    }
    measures = {a.site: dict(a.update.measures) for a in done.answers if a.update and a.update.measures}
    costs = {a.site: a.receipt["cost"] for a in done.answers if a.receipt.get("cost")}
    kept = (("costs", costs), ("late", done.late), ("left_out", done.left_out), ("measures", measures))
    line |= {key: dict(value) for key, value in kept if value}
    if (quality := _quality(done)) is not None:
        line["quality"] = quality
    return line


def epsilon_so_far(privacy: Privacy, log: Sequence[Mapping[str, Any]], measured: Sequence[Answer]) -> float | None:
    """What a run has told about one person's rows at one institution, at most; None without noise.

    Args:
        log: its rounds' lines.
        measured: answers to its evaluate tasks that were asked for since it was loaded; others are not known here.
    """
    if privacy.epsilon is None:
        return None
    costs = [(site, cost) for line in log for site, cost in line.get("costs", {}).items()]
    costs += [(answer.site, answer.receipt.get("cost", 0)) for answer in measured]
    spent = {site: sum(cost for other, cost in costs if other == site) for site, _ in costs}
    return epsilon_of(max(spent.values(), default=0), privacy.delta)


def score_table(answers: Sequence[Answer]) -> pd.DataFrame:
    """One row per scope and institution, "all" being the mean over users, with their number in `users`.

    Of yes/no outcomes: the mean over held-out rows, with their number in `users`.
    """
    import pandas as pd

    rows = []
    for scope in [scope for scope in answers[0].numbers if ":" not in scope]:  # groups of users: see worth.py
        kind: Any = Outcomes if "log_loss" in answers[0].numbers[scope] else Sums
        sums = {answer.site: kind.from_dict(answer.numbers[scope]) for answer in answers}
        total = sum(sums.values(), start=kind())
        for site, part in (*sums.items(), ("all", total)):
            rows.append({"scope": scope, "institution": site, **part.means(), "users": part.users})
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in ("rmse", "mae") if name in table and table[name].isna().all()])


def chief(columns: Collection[str]) -> str:
    """The measure of `score_table` that settings are chosen by: of outcomes AUC, of ratings RMSE (less is better)."""
    return next((name for name in ("auc", "rmse") if name in columns), "ndcg@10")


def card_of(run: str, protocol: str, plan_text: str, fingerprint: str, model: str, log: list[dict[str, Any]]) -> str:
    """The model card, in Markdown."""
    last: Mapping[str, Any] = log[-1] if log else {}
    facts = [
        f"plan: {fingerprint}",
        f"model: {model}",
        f"rows: {protocol}",
        f"rounds: {len(log)}",
        f"institutions: {', '.join(last.get('sites', []))}",
    ]
    listed = "\n".join(f"- {fact}" for fact in facts)
    return f"# {run}\n\n{listed}\n\n## Plan\n\n```toml\n{plan_text.strip()}\n```\n"


def _change(before: SharedParams, after: SharedParams) -> float:
    """The L2 norm of what a round moved; of the whole model where a statistic has become one of other arrays."""
    shapes = [{name: array.shape for name, array in model.tensors.items()} for model in (before, after)]
    return norm(moved(after, before, descends=False) if shapes[0] == shapes[1] else after)


def _quality(done: Round) -> float | None:
    """How good the model that the round started from is (institution/work.py, `validated`), mean over users."""
    said = [
        (a.update.users, a.update.measures["global-quality"])
        for a in done.answers
        if a.update and "global-quality" in a.update.measures
    ]
    users = sum(count for count, _ in said)
    return sum(count * value for count, value in said) / users if users else None
