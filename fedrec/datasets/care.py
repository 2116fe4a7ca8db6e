"""Four hospitals, made up: who takes part in which care programme, and who stays to its end. The structure is known.

A row is a patient who began a programme; its rating is 1 when he stayed to the end and 0 when he dropped out.

What is in it, and nothing else: hospitals with different case mixes, ages and distances; patients with one condition
or with two that come together; programmes of eight conditions, two paths each, of which every path leads from
prevention over lifestyle to rehabilitation, and of which the first path is taken more often. Seven programmes in ten
serve an own condition, and half go on with a path that was begun. Staying to the end follows one logistic law at all
hospitals: the log-odds are BASE plus LAW's weight times the value, or times 1 for a text that is the case. A distance
in twelve is unknown. So similarity beats popularity, one hospital sees little of another's conditions, and the law is
known better from all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedrec.datasets.generated import cumulated, happens, pick
from fedrec.datasets.source import DataSource, Row, write_source

HOSPITALS = ("st-anna", "northfield", "elmgrove", "lakeside")  # heart, the country, rehabilitation, mental health
PATIENTS = (220, 170, 150, 130)  # by hospital
CONDITIONS = ("heart", "diabetes", "lungs", "back", "mood", "sleep", "joints", "weight")
COMES_WITH = (1, 7, 0, 6, 5, 4, 3, 1)  # the second condition of half of the patients
CASE_MIX = ((8, 6, 3, 1, 1, 1, 1, 3), (3, 3, 3, 3, 2, 2, 3, 3), (1, 1, 5, 8, 1, 1, 8, 2), (1, 2, 1, 1, 9, 8, 1, 3))
AGES, KILOMETRES = (46, 40, 44, 22), (2, 14, 8, 4)  # of the youngest and the nearest, by hospital
KINDS = ("prevention", "lifestyle", "rehabilitation")
PATHS = 2
OWN, ON = 70, 50  # of 100 programmes: of an own condition; of 100: the next step of a path that was begun
BASE = 1.0
LAW = {
    "user.dropouts": -0.5,
    "user.distance_km": -0.03,
    "user.age": 0.02,
    "user.smoker=yes": -0.9,
    "user.lives_alone=yes": -0.6,
    "user.conditions=mood": -0.8,
    "item.setting=remote": 0.7,
    "item.weeks": -0.06,
}
_START = 1_609_459_200  # 2021-01-01 UTC


def care(dest: Path, seed: int = 7, times: int = 1) -> DataSource:
    """Write ratings.csv, users.csv and items.csv; same arguments, same bytes. The file is written newest row first.

    A patient begins 4 programmes and more, 7 on average.

    Args:
        times: how many times PATIENTS there are.
    """
    draw = np.random.default_rng(seed)
    places = [(c, path, kind) for c in range(len(CONDITIONS)) for path in range(PATHS) for kind in range(len(KINDS))]
    weeks = [int(draw.integers(2, 7)) * 2 * (kind + 1) for _, _, kind in places]
    remote = [bool(draw.integers(0, 2)) for _ in places]
    often = np.array([(3 - kind) * (3 if path == 0 else 1) for _, path, kind in places], dtype=np.float64)
    serves = np.array([condition for condition, _, _ in places])
    anything = cumulated(often)

    people: list[Row] = []
    events: list[tuple[int, int, str, int, int]] = []
    hospitals = [one for one, count in enumerate(PATIENTS) for _ in range(count * times)]
    for number, hospital in enumerate(hospitals):
        name = f"h{number + 1:05d}"
        first = pick(draw, np.cumsum(CASE_MIX[hospital]))
        has = [first, COMES_WITH[first]] if draw.integers(0, 2) else [first]
        facts = {
            "age": AGES[hospital] + int(draw.integers(0, 21)) + int(draw.integers(0, 21)),
            "distance_km": KILOMETRES[hospital] + int(draw.integers(0, 12)) + int(draw.integers(0, 12)),
            "dropouts": min(int(draw.integers(0, 4)), int(draw.integers(0, 4))),
            "smoker=yes": int(draw.integers(0, 10) < 3),
            "lives_alone=yes": int(draw.integers(0, 10) < 4),
            "conditions=mood": int(CONDITIONS.index("mood") in has),
        }
        of_patient = BASE + sum(LAW[f"user.{key}"] * value for key, value in facts.items())
        known = draw.integers(0, 12) > 0
        people.append(
            (
                name,
                HOSPITALS[hospital],
                facts["age"],
                "|".join(CONDITIONS[one] for one in has),
                "yes" if facts["smoker=yes"] else "no",
                "yes" if facts["lives_alone=yes"] else "no",
                facts["distance_km"] if known else "",
                facts["dropouts"],
            )
        )
        own = cumulated(often * np.isin(serves, has))
        length = 4
        while draw.integers(0, 4) and length < 16:
            length += 1
        begun: list[int] = []
        while len(begun) < length:
            steps = [one + 1 for one in begun if places[one][2] < len(KINDS) - 1 and one + 1 not in begun]
            if steps and draw.integers(0, 100) < ON:
                found = steps[int(draw.integers(0, len(steps)))]
            else:
                found = pick(draw, own if draw.integers(0, 100) < OWN else anything)
            if found not in begun:
                begun.append(found)
        time = _START + int(draw.integers(0, 700 * 86_400))
        for place, one in enumerate(begun):
            time += int(draw.integers(10, 90)) * 86_400 + int(draw.integers(0, 86_400))
            odds = of_patient + LAW["item.weeks"] * weeks[one] + LAW["item.setting=remote"] * remote[one]
            events.append((time, place, name, one, int(happens(draw, odds))))
    events.sort(key=lambda event: (-event[0], -event[1], event[2]))
    programmes = [
        (
            f"p{place + 1:03d}",
            f"{CONDITIONS[condition]}: {KINDS[kind]}, path {'AB'[path]}",
            CONDITIONS[condition],
            KINDS[kind],
            "remote" if remote[place] else "on_site",
            weeks[place],
        )
        for place, (condition, path, kind) in enumerate(places)
    ]
    return write_source(
        dest,
        f"generated hospitals, seed {seed}",
        [("user", "item", "rating", "timestamp"), *((n, f"p{p + 1:03d}", r, t) for t, _, n, p, r in events)],
        [("user", "institution", "age", "conditions", "smoker", "lives_alone", "distance_km", "dropouts"), *people],
        [("item", "title", "condition", "kind", "setting", "weeks"), *programmes],
    )
