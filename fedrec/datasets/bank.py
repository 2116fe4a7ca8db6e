"""Three banks, made up: who holds which product, and who falls behind with its payments. The structure is known.

A row is a customer who took a product with payments due each month (an instalment, a premium, a contribution); its
rating is 1 when three payments in a row were missed within two years, and 0 when not.

What is in it, and nothing else: five stages of life, each with its own lines of products; customers who take seven
products in ten in one flavour; six in ten products go together with another line of the same flavour (a mortgage
with an insurance of the home); and banks with different customers. The risk follows one logistic law at all banks:
the log-odds are BASE plus LAW's weight times the value, or times 1 for a text that is the case. One income in ten is
unknown. So similarity beats popularity, and the law is known better from all banks, since defaults are rare.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrec.datasets.generated import cumulated, happens, pick
from fedrec.datasets.source import DataSource, Row, write_source

BANKS = ("oakfield", "riverside", "nimbus")  # in the country, in the city, without branches
CUSTOMERS = (260, 200, 160)  # by bank
JOBS = ("employee", "public", "self_employed", "retired", "student")
STAGES = ((1, 0, 0, 1, 8), (8, 2, 3, 0, 1), (5, 4, 4, 0, 0), (4, 3, 3, 2, 0), (1, 0, 1, 9, 0))  # jobs by stage of life
AGES = (19, 26, 34, 48, 62)  # of the youngest, by stage
STAGE_MIX = ((1, 2, 4, 4, 4), (3, 4, 4, 2, 1), (6, 5, 2, 1, 1))  # by bank
LINES = (  # title, kind, secured, the line that goes with it, how usual it is by stage of life
    ("student loan", "loan", "no", 2, (9, 2, 0, 0, 0)),
    ("car loan", "loan", "yes", 3, (1, 6, 5, 3, 1)),
    ("credit card", "card", "no", 4, (6, 6, 4, 3, 2)),
    ("car insurance", "insurance", "no", 1, (1, 5, 5, 4, 3)),
    ("travel insurance", "insurance", "no", 2, (3, 4, 2, 3, 4)),
    ("mortgage", "loan", "yes", 6, (0, 2, 8, 4, 0)),
    ("home insurance", "insurance", "no", 5, (0, 1, 6, 6, 5)),
    ("fund savings", "plan", "no", 8, (1, 3, 3, 6, 3)),
    ("pension plan", "plan", "no", 7, (0, 1, 4, 8, 3)),
    ("consumer loan", "loan", "no", 2, (3, 4, 3, 2, 1)),
)
FLAVOURS = ("basic", "green", "family", "premium")
SAME, TOGETHER = 70, 60  # of 100 products: in the customer's flavour; of 100: the line that goes with one he has
BASE = -2.2
LAW = {
    "user.income": -0.03,  # thousand euros a year
    "user.age": -0.01,
    "user.debt_ratio": 0.05,  # per cent of income that go to debts
    "user.delays": 0.6,  # payments that came late before
    "user.job=self_employed": 0.8,
    "item.kind=card": 0.7,
    "item.secured=yes": -0.9,
}
_START = 1_546_300_800  # 2019-01-01 UTC


def bank(dest: Path, seed: int = 7, times: int = 1) -> DataSource:
    """Write ratings.csv, users.csv and items.csv; same arguments, same bytes. The file is written newest row first.

    A customer holds 3 products and more, 6 on average.

    Args:
        times: how many times CUSTOMERS there are.
    """
    draw = np.random.default_rng(seed)
    lines = [(line, flavour) for line in range(len(LINES)) for flavour in range(len(FLAVOURS))]
    line_of = np.array([line for line, _ in lines])
    flavour_of = np.array([flavour for _, flavour in lines])

    people: list[Row] = []
    events: list[tuple[int, int, str, int, int]] = []
    banks = [one for one, count in enumerate(CUSTOMERS) for _ in range(count * times)]
    for number, own in enumerate(banks):
        name = f"b{number + 1:05d}"
        stage = pick(draw, np.cumsum(STAGE_MIX[own]))
        job = pick(draw, np.cumsum(STAGES[stage]))
        facts = {
            "income": 14 + 6 * min(stage, 3) + int(draw.integers(0, 30)) + int(draw.integers(0, 30)),
            "age": AGES[stage] + int(draw.integers(0, 15)),
            "debt_ratio": int(draw.integers(0, 31)) + int(draw.integers(0, 31)),
            "delays": min(int(draw.integers(0, 6)), int(draw.integers(0, 6))),
            "job=self_employed": int(JOBS[job] == "self_employed"),
        }
        of_customer = BASE + sum(LAW[f"user.{key}"] * value for key, value in facts.items())
        income = facts["income"] if draw.integers(0, 10) else ""
        people.append((name, BANKS[own], facts["age"], JOBS[job], income, facts["debt_ratio"], facts["delays"]))
        flavour = int(draw.integers(0, len(FLAVOURS)))
        usual = np.array([LINES[line][4][stage] for line in line_of], dtype=np.float64)
        fits = np.where(flavour_of == flavour, 3 * SAME, 100 - SAME)  # three other flavours share the rest
        table = cumulated(usual * fits)
        length = 3
        while draw.integers(0, 4) and length < 14:
            length += 1
        held: list[int] = []
        while len(held) < length:
            beside = LINES[line_of[held[-1]]][3] * len(FLAVOURS) + int(flavour_of[held[-1]]) if held else -1
            known = beside in held or not held
            found = pick(draw, table) if known or draw.integers(0, 100) >= TOGETHER else beside
            if found not in held:
                held.append(found)
        time = _START + int(draw.integers(0, 500 * 86_400))
        for place, one in enumerate(held):
            time += int(draw.integers(5, 200)) * 86_400 + int(draw.integers(0, 86_400))
            _, kind, secured, _, _ = LINES[line_of[one]]
            odds = of_customer + LAW["item.kind=card"] * (kind == "card") + LAW["item.secured=yes"] * (secured == "yes")
            events.append((time, place, name, one, int(happens(draw, odds))))
    events.sort(key=lambda event: (-event[0], -event[1], event[2]))
    products = [
        (f"f{place + 1:03d}", f"{LINES[line][0]}, {FLAVOURS[flavour]}", *LINES[line][1:3], FLAVOURS[flavour])
        for place, (line, flavour) in enumerate(lines)
    ]
    return write_source(
        dest,
        f"generated banks, seed {seed}",
        [("user", "item", "rating", "timestamp"), *((n, f"f{p + 1:03d}", r, t) for t, _, n, p, r in events)],
        [("user", "institution", "age", "job", "income", "debt_ratio", "delays"), *people],
        [("item", "title", "kind", "secured", "flavour"), *products],
    )
