"""How well a person is told from an update on ML-100K, four institutions: without defence and with each.

python benchmarks/leakage.py: prints two tables for docs/privacy.md. The attacker knows the person's history and, except
under the secure sum, all other rows too (fedrec/institution/leak.py).
"""

from __future__ import annotations

import numpy as np
from privacy import sites_of

from fedrec.core.interactions import Interactions
from fedrec.exchange.accountant import calibrated
from fedrec.exchange.privacy import Privacy
from fedrec.institution import leak, told
from fedrec.models import MF
from fedrec.scientist.plan import Plan
from fedrec.simulation import SimulatedFederation, pooled

DELTA = 1e-5
SIGMA = {epsilon: calibrated(epsilon, DELTA) for epsilon in (8.0, 4.0, 2.0, 1.0)}  # of one release
CANARIES = 20
TRIALS = 500


def main() -> None:
    """Print the tables."""
    own, others = _parts()
    print(f"{own.n_users} users and {len(own)} rows at the first institution, {others.n_users} users at the others")
    popularity = np.asarray(own.matrix().sum(axis=0)).ravel()
    rarity = np.bincount(own.user, popularity[own.item], own.n_users) / np.bincount(own.user, minlength=own.n_users)
    chosen = {
        "random": np.random.default_rng(0).choice(own.n_users, CANARIES, replace=False),
        "rarest items": np.argsort(rarity)[:CANARIES],
    }
    print(
        "\n| people | update | " + " | ".join(["none", "clipped", "secure sum", *(f"eps {e:g}" for e in SIGMA)]) + " |"
    )
    print("| --- " * (5 + len(SIGMA)) + "|")
    for people, users in chosen.items():
        for statistic in leak.STATISTICS:
            clip = float(np.median(leak.norms(own, statistic)))
            found = [
                leak.membership(own, users, statistic, trials=TRIALS),
                leak.membership(own, users, statistic, clip=clip, trials=TRIALS),
                leak.membership(own, users, statistic, others=others, trials=TRIALS),
                *(leak.membership(own, users, statistic, clip=clip, sigma=s, trials=TRIALS) for s in SIGMA.values()),
            ]
            print(f"| {people} | {statistic} | " + " | ".join(f"{attack.advantage:.2f}" for attack in found) + " |")
    limits = " | ".join(f"{leak.bound(epsilon, DELTA):.2f}" for epsilon in SIGMA)
    print(f"| bound of epsilon | | | | | {limits} |")
    thin, backed = leak.thin_cells(own, 5)
    print(f"\nCells of X'X backed by fewer than 5 users: {thin} of {backed} ({thin / backed:.0%})")
    found, true = leak.touched(popularity.astype(np.float64), popularity > 0)
    print(f"Items touched that exact counts show: {found:.0%}, of those shown true: {true:.0%}")
    clip = float(np.median(leak.norms(own, "counts")))
    scale = np.minimum(1.0, clip / leak.norms(own, "counts"))
    clipped = np.bincount(own.item, scale[own.user], own.n_items)
    for epsilon, sigma in SIGMA.items():
        noised = clipped + np.random.default_rng(0).normal(0.0, sigma * clip, own.n_items)
        found, true = leak.touched(noised, popularity > 0)
        print(f"  at epsilon {epsilon:g}: {found:.0%}, of those shown true: {true:.0%}")
    print(f"  shown at random, true: {(popularity > 0).mean():.0%}")
    _gradients(own)


def _gradients(own: Interactions) -> None:
    """The first update of mf, told from the one without a person; noise is that of one of its 25 rounds."""
    told.DRAWS = 20
    for epsilon in (None, *SIGMA):
        privacy = Privacy("plain", epsilon=epsilon) if epsilon else None
        plan = Plan(model=MF(clip=1.0), train=("p1",), privacy=privacy).spec
        found = told.told(plan, own, seconds=float("inf"))
        assert found is not None
        share = f"{found.true} of {found.shown} items shown are true"
        print(f"mf, epsilon {epsilon}: right in {found.right} of {found.tries} tries; {share}")


def _parts() -> tuple[Interactions, Interactions]:
    """The first of four institutions, and the users of the other three together."""
    own, *others = sites_of(4)
    together = SimulatedFederation({str(number): rows for number, rows in enumerate(others)}, own.n_items)
    return own, pooled(together)._rows["all"]


if __name__ == "__main__":
    main()
