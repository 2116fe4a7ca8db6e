"""The attack of told.py on a rehearsal: a plan's first update of the mock, in which there is no real row.

So what it finds may leave: it stands in the request, in the permit and in every passport. What the same attack finds on
the institution's own rows stays with the owner.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from fedrec.config import SchemaConfig
from fedrec.core.interactions import Interactions
from fedrec.exchange.plan import PlanText
from fedrec.institution.index import index_frame
from fedrec.institution.mock import make_mock, mock_catalogue
from fedrec.institution.mock_noise import drawn
from fedrec.institution.told import told
from fedrec.models import GRADIENTS

PEOPLE, DRAWS = 10, 5  # as in told.py: 100 tries
ITEMS, ROWS = 1000, 100_000  # of a mock that is tried while somebody waits
NOT = "not measured"


def rehearsed(plan: PlanText, folder: Path, version: str) -> str:
    """What the update told in a rehearsal, in one plain sentence; the same each time.

    Args:
        folder: the institution's.
        version: of the data whose mock is tried.
    """
    schema = SchemaConfig.load(folder / "schema.toml")
    if plan.own_code is not None:
        return f"{NOT}: own code"
    if plan.features:
        return f"{NOT}: the model needs features prepared first"
    if plan.model["name"] in GRADIENTS or plan.local:
        return f"{NOT}: gradients are computed in the jail only"
    if schema.mock.items > ITEMS or schema.mock.rows > ROWS:
        return f"{NOT}: the mock is too large to be tried"
    noise = np.random.default_rng(0).bytes  # of made-up rows: nobody's privacy hangs on it
    try:
        rows = _rows(schema, folder / "state", version)
        found = told(plan, rows, seconds=math.inf, people=PEOPLE, draws=DRAWS, random=noise)
    except Exception:  # a mock that the model cannot be trained on: no reason to refuse the plan
        found = None
    if found is None:
        return f"{NOT}: the model cannot be trained on the mock"
    said = (
        "rehearsed on the mock, which has no real row: someone who knows all other rows tells rightly in "
        f"{found.right} of {found.tries} tries whether a person is in the first update; {found.tries // 2} is guessing"
    )
    if found.shown is None:
        return said
    return f"{said}; of the {found.touched} items touched, {found.true} can be read among {found.shown} that it shows"


def _rows(schema: SchemaConfig, state: Path, version: str) -> Interactions:
    columns = schema.columns
    named = {"user": columns.user, "item": columns.item, "rating": columns.rating, "time": columns.time}
    frame = make_mock(schema, drawn(state, version))
    return index_frame(frame, mock_catalogue(schema), **named, unit=schema.time.unit, zone=schema.time.zone).rows
