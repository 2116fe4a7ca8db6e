"""How good an institution's data is: figures, drift against the last version, and one score.

The score is the geometric mean of five shares, each from 0 (bad) to 1:

    complete    1 - missing cells / cells, over the schema's columns
    valid       1 - rejected rows / rows read
    consistent  1 - conflicts / rows that are not rejected   (conflict: same user and item, another rating)
    supported   share of kept rows whose user has at least 5: fewer cannot be split into training and test well
    even        1 - share of kept rows of outlier users      (outlier: more than 10 times the median user's rows)

    score = (complete x valid x consistent x supported x even) ** (1/5)

One share of 0 makes the score 0. Repeated equal rows cost nothing, since one of them stands for all; size and
diversity are told beside the score and are not in it, so that a small or a special institution is not a bad one.

Everything here stays inside the institution. Figures are counts and shares, never an id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute as pc

from fedrec.core.interactions import Interactions
from fedrec.institution.store import Store

ENOUGH = 5  # rows of a user
OUTLIER = 10  # times the median user's rows
PARTS = ("complete", "valid", "consistent", "supported", "even")
_BARS = 20


def measure(
    rows: Interactions,
    *,
    rows_in: int,
    rejected: int,
    conflicts: int,
    missing: Mapping[str, int],
    items: pa.Table | None,
    popularity: NDArray[Any] | None,
    drift: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The report's figures; every number finite, None where there is nothing to say.

    Args:
        rows: what was kept; at least one.
        missing: empty cells by column of the source.
        items: the items' features, by index.
        popularity: the consortium's counts by item, from a published model.
        drift: as `drift_of`.
    """
    of_user = np.bincount(rows.user, minlength=rows.n_users)
    of_item = np.bincount(rows.item, minlength=rows.n_items)
    loud = of_user > OUTLIER * float(np.median(of_user))
    cells = rows_in * max(len(missing), 1)
    parts = {
        "complete": 1 - sum(missing.values()) / cells,
        "valid": 1 - rejected / rows_in,
        "consistent": 1 - conflicts / max(rows_in - rejected, 1),
        "supported": float(of_user[of_user >= ENOUGH].sum()) / len(rows),
        "even": 1 - float(of_user[loud].sum()) / len(rows),
    }
    return {
        "score": score(parts),
        "parts": parts,
        "missing": {name: count / rows_in for name, count in missing.items()},
        "outlier_users": int(loud.sum()),
        "rows_of_outlier_users": int(of_user[loud].sum()),
        "rows_per_user": _spread(of_user),
        "rows_per_item": _spread(of_item[of_item > 0]),
        "ratings": _ratings(rows.rating),
        "months": _months(rows.time),
        "drift": None if drift is None else dict(drift),
        "diversity": {
            "effective_items": effective(of_item),
            "effective_categories": _categories(of_item, items),
            "distance_to_consortium": None
            if popularity is None or len(popularity) != rows.n_items or popularity.sum() <= 0
            else distance(of_item, popularity),
        },
    }


def score(parts: Mapping[str, float]) -> float:
    """The geometric mean of the five parts; 0 to 1."""
    return float(np.prod([min(max(parts[name], 0.0), 1.0) for name in PARTS]) ** (1 / len(PARTS)))


def effective(counts: NDArray[Any]) -> float:
    """exp(entropy) of the counts: how many equally popular items would be as diverse. 1 to the number above zero.

    Source: Jost 2006, Entropy and diversity, Oikos 113.
    """
    share = counts[counts > 0] / counts.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def distance(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Total variation between two popularities: the share of rows that would have to move; 0 to 1."""
    return float(np.abs(left / left.sum() - right / right.sum()).sum() / 2)


def drift_of(rows: Interactions, user_ids: Sequence[str], before: Store, same_catalogue: bool) -> dict[str, Any]:
    """What changed since the version `before`.

    Returns:
        new_rows, new_users: shares of this version's that the other has not; gone_rows: the reverse, of the
        other's; popularity: total variation between the two. None where the catalogue is another one.
    """
    old, old_ids = before.rows(), before.user_ids()
    known = {name: place for place, name in enumerate(user_ids)}
    found: dict[str, Any] = {"since": before.version}
    found["new_users"] = 1 - len(known.keys() & set(old_ids)) / len(known)
    if not same_catalogue:
        return found | {"new_rows": None, "gone_rows": None, "popularity": None}
    here = np.array([known.get(name, -1) for name in old_ids], dtype=np.int64)[old.user]
    pairs = rows.user.astype(np.int64) * rows.n_items + rows.item
    before_pairs = (here * rows.n_items + old.item)[here >= 0]
    both = len(np.intersect1d(pairs, before_pairs, assume_unique=True))
    counts = [np.bincount(part.item, minlength=rows.n_items) for part in (rows, old)]
    return found | {
        "new_rows": 1 - both / len(rows),
        "gone_rows": 1 - both / len(old),
        "popularity": distance(*counts),
    }


def text(report: Mapping[str, Any]) -> str:
    """The quality of an intake's report, for a person."""
    found = report["quality"]
    parts = ", ".join(f"{name} {found['parts'][name]:.3f}" for name in PARTS)
    users, diversity, drift = found["rows_per_user"], found["diversity"], found["drift"]
    gaps = ", ".join(f"{name} {share:.2%}" for name, share in found["missing"].items() if share) or "none"
    lines = [
        f"quality {found['score']:.3f}: {parts}",
        f"  missing {gaps}; conflicts {report['conflicts']}",
        f"  rows a user: {users['min']} to {users['max']}, median {users['median']:g}; "
        f"{found['outlier_users']} users have more than {OUTLIER} times the median",
        f"  diversity: {diversity['effective_items']:.1f} effective items"
        + "".join(f", {value:.1f} effective {name}" for name, value in diversity["effective_categories"].items()),
    ]
    if diversity["distance_to_consortium"] is not None:
        lines.append(f"  distance to the consortium's popularity {diversity['distance_to_consortium']:.3f}")
    if drift is not None:
        shares = [f"{key.replace('_', ' ')} {drift[key]:.2%}" for key in ("new_rows", "gone_rows", "new_users")
                  if drift[key] is not None]  # fmt: skip
        moved = "" if drift["popularity"] is None else f", popularity moved {drift['popularity']:.3f}"
        lines.append(f"  since version {drift['since']}: {', '.join(shares)}{moved}")
    return "\n".join(lines)


def _spread(counts: NDArray[np.int64]) -> dict[str, Any]:
    """Least, median, most, and how many have 1, 2-3, 4-7, 8-15, … rows."""
    power = np.floor(np.log2(counts)).astype(np.int64)
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
        "powers_of_two": np.bincount(power).tolist(),
    }


def _ratings(rating: NDArray[np.float32]) -> dict[str, list[Any]]:
    """Rows by rating: each value where there are at most 20, else 20 bars of equal width, by their lower edge."""
    values, counts = np.unique(rating, return_counts=True)
    if len(values) > _BARS:
        counts, values = np.histogram(rating.astype(np.float64), bins=_BARS)
        values = values[:-1]
    return {"from": [float(value) for value in values], "rows": [int(count) for count in counts]}


def _months(time: NDArray[np.int64] | None) -> dict[str, list[Any]] | None:
    """Rows by month of the time span, UTC; by year where it is longer than ten years."""
    if time is None:
        return None
    month = time.astype("datetime64[s]").astype("datetime64[M]")
    long = (month.max() - month.min()).astype(int) > 120
    found, counts = np.unique(month.astype("datetime64[Y]") if long else month, return_counts=True)
    return {"from": [str(value) for value in found], "rows": counts.tolist()}


def _categories(of_item: NDArray[np.int64], items: pa.Table | None) -> dict[str, float]:
    """Effective number of each text or tag feature's values, over rows; a row counts once for each of its tags."""
    found: dict[str, float] = {}
    if items is None:
        return found
    for name in items.column_names:
        column = items[name].combine_chunks()
        if pa.types.is_list(column.type):
            item, value = pc.list_parent_indices(column).to_numpy(), pc.list_flatten(column)
        elif pa.types.is_string(column.type):
            item, value = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)), column.drop_null()
        else:
            continue
        codes = value.dictionary_encode().indices.to_numpy(zero_copy_only=False)
        counts = np.bincount(codes, weights=of_item[item]) if len(codes) else np.zeros(0)
        if counts.sum() > 0:
            found[name] = effective(counts)
    return found


def moment(seconds: int) -> str:
    """RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
