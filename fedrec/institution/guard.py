"""The guard: the last look at an update before it may leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from fedrec.core.metrics import CUT, GROUPS, LEAST_GROUP, Sums
from fedrec.core.outcomes import BINS, Outcomes
from fedrec.core.params import Array
from fedrec.errors import Refused
from fedrec.exchange.plan import Tensor

MEASURE = 10_000  # a measure of 1 in a passport
ERRORS = ("rated", "squared", "absolute")
SCOPES = ("federated", "local", "popularity")
_NEXT = "The owner's log says which check it was; mend the plan and submit it again"


@dataclass(frozen=True, slots=True)
class Guard:
    """What one release may look like.

    Args:
        leaves: the permit's arrays by name.
        n_items: length of the catalogue.
        max_bytes: the site's cap on the encoded update.
        min_users_per_row: rows backed by fewer users are zeroed; 1 leaves all.
    """

    leaves: Mapping[str, Tensor]
    n_items: int
    max_bytes: int
    min_users_per_row: int = 1

    def check(self, tensors: Mapping[str, Array], encoded_bytes: int) -> None:
        """Raises: Refused `guard.name`, `.dtype`, `.shape`, `.finite`, `.norm`, `.bytes`: the check, not the value."""
        if set(tensors) != set(self.leaves):
            raise Refused("guard.name", "the update has other arrays than the plan declares", _NEXT)
        for name, tensor in self.leaves.items():
            array = tensors[name]
            if str(array.dtype) != tensor.dtype:
                raise Refused("guard.dtype", f"{name} is {array.dtype}, declared {tensor.dtype}", _NEXT)
            if array.shape != tensor.sized(self.n_items):
                raise Refused("guard.shape", f"{name} has another shape than declared", _NEXT)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Refused("guard.finite", f"{name} holds a value that is not finite", _NEXT)
            if tensor.norm is not None and not _norm(array) <= tensor.norm * (1 + 1e-6):  # float32 rounds
                raise Refused("guard.norm", f"{name} has a larger norm than declared", _NEXT)
        self.check_bytes(encoded_bytes)

    def check_bytes(self, encoded_bytes: int) -> None:
        """Refuse an update of so many bytes. Raises: Refused `guard.bytes`."""
        if encoded_bytes > self.max_bytes:
            raise Refused("guard.bytes", f"the update is larger than {self.max_bytes} bytes", _NEXT)

    def cohort(self, tensors: Mapping[str, Array], seen: sparse.csr_matrix) -> tuple[dict[str, Array], int]:
        """Zero the item rows (and columns) that too few users stand behind.

        Args:
            seen: users by items of the rows that were trained on.

        Returns:
            The arrays, and how many items were zeroed.
        """
        users = np.asarray((seen > 0).sum(axis=0)).ravel()
        thin = np.flatnonzero(users < self.min_users_per_row)
        if self.min_users_per_row <= 1 or not len(thin):
            return dict(tensors), 0
        kept = {}
        for name, tensor in self.leaves.items():
            array = np.array(tensors[name])
            for axis, size in enumerate(tensor.shape):
                if size == "items":
                    array[(slice(None),) * axis + (thin,)] = 0
            kept[name] = array
        return kept, len(thin)


def _norm(array: Array) -> float:
    """The L2 norm over all numbers; inf when it is too large to be one."""
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(array.astype(np.float64).ravel()))


def check_counts(report: Mapping[str, Any], n_rows: int, n_users: int) -> tuple[int, int]:
    """Rows and users that a job says it trained on; own code can write its report itself.

    Raises:
        Refused: `guard.counts` when they are not whole numbers that the store can have.
    """
    rows, users = report.get("rows"), report.get("users")
    if type(rows) is not int or type(users) is not int or not (0 <= rows <= n_rows and 0 <= users <= n_users):
        raise Refused("guard.counts", "the job's numbers of rows and users cannot be true", _NEXT)
    return rows, users


def check_measures(said: object, wanted: Sequence[str], quality: Callable[[], float]) -> dict[str, int]:
    """Qualities that the plan asks for beside an update, as whole ten-thousandths: finer they could carry rows out.

    Args:
        wanted: their names.
        quality: the score of the data, "data-quality": the site's own word, not the job's.

    Raises:
        Refused: `guard.numbers` when they are others, or no shares in [0, 1].
    """
    names = {name for name in wanted if name != "data-quality"}
    found = said or {}
    if not isinstance(found, dict) or set(found) != names:
        raise Refused("guard.numbers", "the job gave other measures than the plan asks for", _NEXT)
    if not all(type(value) in (int, float) and 0 <= value <= 1 for value in found.values()):
        raise Refused("guard.numbers", "a measure is no share between 0 and 1", _NEXT)
    if "data-quality" in wanted:
        found = {**found, "data-quality": quality()}
    return {name: round(MEASURE * found[name]) for name in sorted(found)}


def check_sums(numbers: object, n_users: int, rated: tuple[int, float] | None = None) -> dict[str, dict[str, float]]:
    """What an evaluation releases: per scope, and per group of users where groups are large enough, sums that fit.

    Every sum is of values in [0, 1], so it is at most the number of users; the sums of one scope must be able to
    come from the same users, all scopes have the same users, and groups add up to them.

    Args:
        rated: rows of the institution and width of the rating scale, for a model that predicts ratings: no error is
            wider. None: sums of errors must be 0.

    Raises:
        Refused: `guard.numbers` for anything else.
    """
    if isinstance(numbers, dict) and all(_are_sums(numbers[key], n_users, rated) for key in numbers) and _fit(numbers):
        return numbers
    raise Refused("guard.numbers", "the evaluation gave something else than sums over users", _NEXT)


def check_outcomes(numbers: object, n_rows: int) -> dict[str, dict[str, Any]]:
    """What an evaluation of yes/no outcomes releases: per scope counts of rows by bin that add up, and two sums.

    Raises:
        Refused: `guard.numbers` for anything else.
    """
    if not isinstance(numbers, dict) or not all(s in SCOPES and _are_outcomes(numbers[s], n_rows) for s in numbers):
        raise Refused("guard.numbers", "the evaluation gave something else than sums over rows", _NEXT)
    return numbers


def _are_outcomes(sums: object, n_rows: int) -> bool:
    if not isinstance(sums, dict) or set(sums) != set(Outcomes().as_dict()) or type(sums["users"]) is not int:
        return False
    counts = [sums["yes"], sums["no"]]
    if not all(type(bins) is list and len(bins) == BINS for bins in counts):
        return False
    if not all(type(count) is int and count >= 0 for bins in counts for count in bins):
        return False
    rows, most = sums["users"], {"log_loss": 35.0, "brier": 1.0}  # -ln of outcomes.TINY is 34.5
    return (
        0 <= rows <= n_rows
        and sum(map(sum, counts)) == rows
        and all(type(sums[n]) in (int, float) and 0 <= sums[n] <= high * rows * (1 + 1e-9) for n, high in most.items())
    )


def _are_sums(sums: object, n_users: int, rated: tuple[int, float] | None) -> bool:
    """Whether the numbers of one scope are of the right kind, and could be those of that many users."""
    if not isinstance(sums, dict) or set(sums) != set(Sums().as_dict()) or type(sums["users"]) is not int:
        return False
    users, rest = sums["users"], [sums[name] for name in sums if name not in ("users", *ERRORS)]
    slack = 1e-9 * max(1, users)  # sums of ones round
    if not 0 <= users <= n_users or not all(type(v) in (int, float) and 0 <= v <= users + slack for v in rest):
        return False
    hr = sums["hr"]
    return (
        hr == int(hr)
        and all(sums[name] <= hr + slack for name in ("ndcg", "recall10", "precision", "map", "mrr"))
        and all(CUT * sums[name] >= hr - CUT * slack for name in ("precision", "mrr"))  # a hit in the last place
        and sums["recall10"] <= sums["recall"] + slack
        and sums["ndcg_squares"] <= sums["ndcg"] + slack
        and sums["ndcg"] ** 2 <= users * (sums["ndcg_squares"] + slack)
        and _are_errors([sums[name] for name in ERRORS], users, *(rated or (0, 0.0)))
    )


def _are_errors(sums: list[Any], users: int, n_rows: int, width: float) -> bool:
    """Whether these could be sums of errors up to `width` over rows: some of every evaluated user, or none at all."""
    rows, squared, absolute = sums
    if type(rows) is not int or not all(type(v) in (int, float) and 0 <= v < float("inf") for v in sums):
        return False
    if not (rows == 0 or users <= rows <= n_rows):
        return False
    slack = 1 + 1e-9
    within = absolute <= width * rows * slack and rows * squared <= width * rows * absolute * slack
    return bool(within and absolute**2 <= rows * squared * slack)


def _fit(numbers: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether scopes and groups belong together."""
    groups = {"".join(key.partition(":")[1:]) for key in numbers} - {""}
    scopes = {key.partition(":")[0] for key in numbers}
    if not groups <= set(GROUPS) or not scopes <= set(SCOPES):
        return False
    if set(numbers) != {scope + group for scope in scopes for group in ("", *groups)}:
        return False
    if any(0 < numbers[key]["users"] < LEAST_GROUP for key in numbers if ":" in key):
        return False
    for group in ("", *groups):
        ours = numbers.get("federated" + group)
        for one in (numbers[scope + group] for scope in scopes):
            if ours is not None and not (one["users"] == ours["users"] and _paired(ours, one, one is ours)):
                return False
            if ours is not None and one["rated"] not in (0, ours["rated"]):
                return False
    return not groups or all(
        abs(sum(numbers[scope + group][name] for group in groups) - total)
        <= 1e-9 * max(1, numbers[scope]["users"], total)
        for scope in scopes
        for name, total in numbers[scope].items()
    )


def _paired(ours: Mapping[str, float], one: Mapping[str, float], same: bool) -> bool:
    """Whether the sum of squared differences could be that of these two: |a - b| is 0, or between |sum| and norms."""
    users, gap = ours["users"], one["gap_squares"]
    if same:
        return gap == 0
    slack = 1e-9 * max(1, users)
    squares = ours["ndcg_squares"] + one["ndcg_squares"]
    return (ours["ndcg"] - one["ndcg"]) ** 2 <= users * (gap + slack) and gap <= squares + slack
