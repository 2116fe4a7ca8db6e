"""Model by defence: how well it recommends, what it costs in bytes and seconds, and how often an attack is right.

python benchmarks/defences.py [--page docs/privacy.md]: ML-100K dealt out at random to four institutions, simulated,
with the very masks and ciphertexts of sites; P2 NDCG@10 on test rows, mean of three draws where there is noise. The
attacker of a plain or noised update knows every other row (fedrec/institution/told.py); the one of a sum without
noise knows every other row of one institution, and of the others only from which population their users come.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nacl.signing import SigningKey
from privacy import NONE, ndcg, sites_of

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams
from fedrec.core.split import split
from fedrec.exchange import ckks, ckks_plan
from fedrec.exchange.privacy import Privacy
from fedrec.exchange.secure_sum import masked
from fedrec.institution import leak, told, work
from fedrec.models import MF, Default, Ease, Popularity, Private
from fedrec.models.base import Model
from fedrec.scientist.federation import Answer, RoundTask, Watch
from fedrec.scientist.plan import Plan
from fedrec.simulation import SimulatedCalls, SimulatedFederation, pooled

CLIPPED: dict[str, Model] = {"popularity": Popularity(clip=1.0), "private": Private(), "mf": MF(clip=1.0)}
MODELS: dict[str, Model] = {
    "popularity": Popularity(),
    "ease": Ease(),
    "default": Default(),
    "private": Private(),
    "mf": MF(),
}
DEFENCES: dict[str, Privacy | None] = {
    "none": None,
    "secure sum": Privacy("secure"),
    "CKKS": Privacy("ckks"),
    **{f"epsilon {epsilon:g}": Privacy("secure", epsilon=epsilon) for epsilon in (8.0, 4.0, 2.0, 1.0)},
}
STATISTIC = {"popularity": "counts", "ease": "gram", "default": "gram", "private": "counts"}  # whose cells are attacked
SEEDS, PEOPLE, TRIALS = 3, 25, 200
MARKS = "<!-- benchmarks/defences.py writes from here -->", "<!-- defences to here -->"


class Protected(SimulatedFederation):
    """Simulated institutions that mask or encrypt as sites do; counts the seconds of that."""

    spent = 0.0

    def calls(self, watch: Watch) -> SimulatedCalls:
        return _Calls(self, watch)


class _Calls(SimulatedCalls):
    def fetch(self, task: RoundTask, answers: Sequence[Answer]) -> tuple[list[Answer], list[dict[str, Array]]]:
        found, rings = super().fetch(task, answers)
        began, names, spec = time.perf_counter(), list(task.members), task.plan.spec
        context = f"{task.run} {task.number} {task.plan.fingerprint}".encode()
        if spec.protects.sum == "ckks":
            layout, key = ckks_plan.layout_of(spec, self.n_items, len(names)), ckks.make_key()
            sent = [ckks_plan.encrypted(r, key, layout, context, n) for r, n in zip(rings, names, strict=True)]
            rings = [ckks_plan.decrypted(ckks_plan.added(sent, layout), key, layout, context, names)]
        else:
            keys = {name: SigningKey(name.encode().ljust(32)) for name in names}
            pinned = {name: one.verify_key.encode().hex() for name, one in keys.items()}
            rings = [masked(r, n, keys[n], pinned, context) for r, n in zip(rings, names, strict=True)]
        assert isinstance(self._federation, Protected)
        self._federation.spent += time.perf_counter() - began
        return found, rings


def measure(name: str, defence: str, sites: list[Interactions]) -> list[str] | None:
    """The cells of one model under one defence; None where the model bounds nobody."""
    privacy = DEFENCES[defence]
    noisy = privacy is not None and privacy.epsilon is not None
    if noisy and name not in CLIPPED:
        return None
    plan = Plan(model=CLIPPED[name] if noisy else MODELS[name], train=("p1",), privacy=privacy)
    parts, found, seconds, protecting = [split(rows, "p1", 0) for rows in sites], [], 0.0, 0.0
    draws = SEEDS if noisy else 1
    for seed in range(draws):
        federation = Protected(
            {f"site-{number}": rows for number, rows in enumerate(sites)},
            sites[0].n_items,
            random=np.random.default_rng(seed).bytes,
        )
        began = time.perf_counter()
        run = federation.train(plan)
        seconds, protecting = seconds + time.perf_counter() - began, protecting + federation.spent
        kept = [states[max(states)] for states in federation._private.values() if states]
        own = [PrivateParams(dict(state)) for state in kept] or [NONE] * len(parts)
        scorers = [work.scorer(plan.built, p.train, run.shared, each) for p, each in zip(parts, own, strict=True)]
        found.append(ndcg(scorers, parts))
    megabytes = plan.spec.travels(sites[0].n_items) * plan.spec.rounds / 1e6
    return [
        name, defence, f"{np.mean(found):.3f}", f"{megabytes:.2f}",
        f"{seconds / draws:.1f}", f"{protecting / draws:.2f}", f"{attack(name, plan, sites, noisy):.2f}",
    ]  # fmt: skip


def attack(name: str, plan: Plan, sites: list[Interactions], noisy: bool) -> float:
    """Membership advantage on the first update, or on the first sum."""
    if noisy or plan.privacy is None or plan.privacy.sum == "plain":
        told.DRAWS = TRIALS // 10
        tried = told.told(plan.spec, sites[0], seconds=float("inf"))
        assert tried is not None
        return 2 * tried.right / tried.tries - 1
    parts = [split(rows, "p1", 0).train for rows in sites]
    together = SimulatedFederation({str(k): rows for k, rows in enumerate(parts[1:])}, parts[0].n_items)
    others = pooled(together)._rows["all"]
    people = np.random.default_rng(0).choice(np.unique(parts[0].user), PEOPLE, replace=False)
    if name in STATISTIC:
        return leak.membership(parts[0], people, STATISTIC[name], others=others, trials=TRIALS).advantage
    return _in_a_crowd(plan, parts[0], others, people)


def _in_a_crowd(plan: Plan, rows: Interactions, others: Interactions, people: Sequence[int]) -> float:
    """`leak.membership` with others, on sums of users' gradients."""
    start, rng = plan.built.init(rows.n_items, plan.seed), np.random.default_rng(0)

    def gradients(of: Interactions, users: Sequence[int]) -> Array:
        """Each user's part of the sum; shape (users, numbers)."""
        found = []
        for user in users:
            mine = told._rows(of, of.user == user)
            mine = replace(mine, user=np.zeros_like(mine.user), n_users=1)
            update = plan.built.fit_site(mine, start, NONE)[0].tensors["items"]
            found.append((update * len(mine)).ravel())  # from the mean over rows to the sum
        return np.array(found)

    crowd, right, tries = gradients(others, range(others.n_users)), 0, 0
    for one in gradients(rows, people):
        norm = float(np.linalg.norm(one))
        each = crowd @ one / norm
        for inside in (0, 1):
            drawn = rng.multinomial(len(each), np.full(len(each), 1 / len(each)), size=TRIALS)
            score = inside * norm + drawn @ each - each.sum()
            right += int(((score > norm / 2) == inside).sum())
            tries += TRIALS
    return 2 * right / tries - 1


def main() -> None:
    """Print the table; write it between the two marks of the page."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--page", type=Path)
    asked, sites = options.parse_args(), sites_of(4)
    head = ["model", "defence", "P2 NDCG@10", "MB up a site", "seconds", "of which masks or encryption", "advantage"]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    print(*lines, sep="\n")
    for name in MODELS:
        for defence in DEFENCES:
            if (cells := measure(name, defence, sites)) is not None:
                lines.append(f"| {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    if asked.page:
        before, _, rest = asked.page.read_text(encoding="utf-8").partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        table: Any = "\n".join(lines)
        asked.page.write_text(f"{before}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
