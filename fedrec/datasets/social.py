"""People on three servers of one social network, made up: who follows whom. The structure is known.

What is in it, and nothing else: nine topics, each person with one, and servers that lean to three topics each;
accounts that are followed by a law like 1/rank inside their topic; and follows that close triangles, since a person
finds half of those he follows among those whom they follow, and follows some back. So popularity beats chance,
likeness of two persons' lists beats popularity, and lists cross the servers' borders.

Each account follows itself from the day it was opened, as some networks' own tables have it: nobody is recommended to
himself, and to follow somebody is to be like those who follow him.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedrec.datasets.generated import cumulated, pick
from fedrec.datasets.source import DataSource, write_source

SERVERS = ("agora", "brightside", "commons")
PEOPLE = 540
TOPICS = ("astronomy", "baking", "chess", "climbing", "gardening", "jazz", "knitting", "photography", "running")
LEANS = 2  # how much likelier a server's own topics are
CLOSES, BACK = 50, 10  # of 100 follows: close a triangle, follow back; the others go by topic
INSIDE = 80  # of 100 of these: inside the own topic
TRIES = 6  # to find somebody new, in one visit
MORE = 4  # a person visits 6 times, and again with probability 1 - 1 / MORE each time
_FIRST = ("amber", "brisk", "calm", "dapper", "eager", "fuzzy", "gentle", "humble", "jolly", "keen")
_LAST = ("otter", "heron", "badger", "finch", "lynx", "marten", "newt", "plover", "stoat", "wren", "hare", "vole")
_START = 1_704_067_200  # 2024-01-01 UTC


def social(dest: Path, seed: int = 7) -> DataSource:
    """Write ratings.csv (without ratings), users.csv and items.csv; same seed, same bytes.

    A person follows 9 others on average. Users and items are the same people. The file is newest row
    first.
    """
    draw = np.random.default_rng(seed)
    server = np.arange(PEOPLE) % len(SERVERS)
    mix = [np.cumsum([LEANS if topic // 3 == one else 1 for topic in range(9)]) for one in range(len(SERVERS))]
    topic = np.array([pick(draw, mix[one]) for one in server])
    popular = np.empty(PEOPLE)
    for one in range(len(TOPICS)):
        inside = draw.permutation(np.flatnonzero(topic == one))
        popular[inside] = 1.0 / np.arange(1, len(inside) + 1)
    near = [cumulated(popular * (topic == one)) for one in range(len(TOPICS))]
    anyone = cumulated(popular)

    turns = []
    for person in range(PEOPLE):
        length = 6
        while draw.integers(0, MORE) and length < 60:
            length += 1
        turns += [person] * length
    follows: list[dict[int, int]] = [{person: _START + int(draw.integers(0, 86_400))} for person in range(PEOPLE)]
    followers: list[list[int]] = [[] for _ in range(PEOPLE)]
    time = _START + 86_400
    for person in (turns[place] for place in draw.permutation(len(turns))):
        time += int(draw.integers(60, 3_600))
        for _ in range(TRIES):
            found = _found(draw, person, follows, followers, near[topic[person]], anyone)
            if found not in follows[person]:
                follows[person][found] = time
                followers[found].append(person)
                break
    events = [(when, whose, who) for whose, list_ in enumerate(follows) for who, when in list_.items()]
    events.sort(key=lambda event: (-event[0], event[1], event[2]))
    facts = [(f"p{p + 1:05d}", SERVERS[server[p]], TOPICS[topic[p]]) for p in range(PEOPLE)]
    handles = [f"@{_FIRST[p % 10]}-{_LAST[p // 10 % 12]}-{p + 1}" for p in range(PEOPLE)]
    return write_source(
        dest,
        f"generated social, seed {seed}",
        [("user", "item", "timestamp"), *((f"p{u + 1:05d}", f"p{i + 1:05d}", when) for when, u, i in events)],
        [("user", "institution", "topic"), *facts],
        [("item", "title", "server", "topic"), *((f[0], h, *f[1:]) for f, h in zip(facts, handles, strict=True))],
    )


def _found(
    draw: np.random.Generator,
    person: int,
    follows: list[dict[int, int]],
    followers: list[list[int]],
    near: NDArray[np.int64],
    anyone: NDArray[np.int64],
) -> int:
    """Whom a person finds next; it may be somebody whom he follows already."""
    how = int(draw.integers(0, 100))
    if how < CLOSES:
        through = _one_of(draw, list(follows[person]))
        return _one_of(draw, list(follows[through]))
    if how < CLOSES + BACK and followers[person]:
        return _one_of(draw, followers[person])
    return pick(draw, near if draw.integers(0, 100) < INSIDE else anyone)


def _one_of(draw: np.random.Generator, people: list[int]) -> int:
    return people[int(draw.integers(0, len(people)))]
