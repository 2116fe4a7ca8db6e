"""What may be installed after a publish task: the merged model that came, and the lists that the jail made of it.

The jail cannot be asked: with own code it says what that code wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from fedrec import models
from fedrec.core.params import Array, SharedParams
from fedrec.errors import Refused
from fedrec.exchange.plan import PlanText, Tensor
from fedrec.exchange.wire import decode, encode
from fedrec.institution.perform import LIST_LENGTH, OWN, WHY
from fedrec.institution.personal import BY_ROUNDS, STATISTICS
from fedrec.institution.uncompared import NAMES

MAX_MORE = 10**6  # bytes of a lists file beyond the arrays
_NEXT = "Publish the model that this plan's rounds and aggregator gave"
_OWN = "Mend the plan's own code and submit it again"
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name


def check_model(plan: PlanText, n_items: int, data: bytes) -> None:
    """Accept a merged model: the arrays of the plan's model and no others, finite, and nothing besides them.

    Raises:
        Refused: `guard.name`, `guard.dtype`, `guard.shape`, `guard.finite` or `guard.bytes`.
    """
    tensors = decode(data)
    wanted = next((shapes for shapes in _shapes_of(plan, n_items) if set(shapes) == set(tensors)), None)
    if wanted is None:
        raise Refused("guard.name", "the model has other arrays than the plan's", _NEXT)
    for name, (dtype, shape) in wanted.items():
        array = tensors[name]
        if str(array.dtype) != dtype:
            raise Refused("guard.dtype", f"{name} of the model is {array.dtype}, not {dtype}", _NEXT)
        if array.shape != shape:
            raise Refused("guard.shape", f"{name} of the model has another shape than the plan's", _NEXT)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise Refused("guard.finite", f"{name} of the model holds a value that is not finite", _NEXT)
    if encode(tensors) != data:
        raise Refused("guard.bytes", "the model's bytes hold more than its arrays", _NEXT)


@dataclass(frozen=True, slots=True)
class Made:
    """What a publish job made, written anew.

    Args:
        lists: of the shared model, encoded.
        own: the institution's own model and its lists, encoded, where it is to be served instead.
        ndcg: of the shared model and of the own one on the institution's validation rows; None: not compared.
        why: not, one of `uncompared.NAMES`.
    """

    lists: bytes
    own: tuple[bytes, bytes] | None = None
    ndcg: tuple[float, float] | None = None
    why: str = ""


def checked_made(plan: PlanText, file: Path, n_users: int, n_items: int) -> Made:
    """The lists that a job wrote: item numbers for every user, -1 at the end where there are no more.

    They may come with the institution's own model, see `personal.compared`. That of own code is what that code says:
    it served the lists that it wanted before, too.

    Raises:
        Refused: `guard.bytes`, `guard.name`, `guard.dtype`, `guard.shape` or `guard.numbers`.
    """
    k, beside = min(LIST_LENGTH, n_items), plan.model["name"] in (*STATISTICS, *BY_ROUNDS)
    most = 4 * k * (n_users + 1) + MAX_MORE
    if beside:
        most += 4 * k * n_users + max(_bytes(shapes) for shapes in _shapes_of(plan, n_items))
    if file.stat().st_size > most:  # before it is read into memory
        raise Refused("guard.bytes", "the lists are larger than lists for these users can be", _OWN)
    found = decode(file.read_bytes())
    ndcg = found.pop("ndcg") if beside and "ndcg" in found else None
    why = _word(found.pop(WHY)) if WHY in found else ""
    own = {name.removeprefix(OWN): found.pop(name) for name in list(found) if beside and name.startswith(OWN)}
    lists = _checked_lists(found, n_users, n_items)
    if ndcg is None:
        return Made(lists, why=why)
    if ndcg.shape != (2,) or ndcg.dtype != np.float64 or not ((ndcg >= 0) & (ndcg <= 1)).all():
        raise Refused("guard.numbers", "what was compared are no two shares", _OWN)
    scores = (float(ndcg[0]), float(ndcg[1]))
    if not own:
        return Made(lists, None, scores)
    mine = {"lists": own.pop("lists", np.zeros(0)), "popular": found["popular"]}
    shared = encode(own)
    check_model(plan, n_items, shared)
    return Made(lists, (shared, _checked_lists(mine, n_users, n_items)), scores)


def _word(why: Array) -> str:
    if why.shape != (1,) or why.dtype.kind != "i" or not 0 <= int(why[0]) < len(NAMES):
        raise Refused("guard.numbers", "why nothing was compared is no reason", _OWN)
    return NAMES[int(why[0])]


def _checked_lists(found: Mapping[str, Array], n_users: int, n_items: int) -> bytes:
    """Lists written anew."""
    k = min(LIST_LENGTH, n_items)
    wanted = {"lists": (n_users, k), "popular": (k,)}
    if set(found) != set(wanted):
        raise Refused("guard.name", "the job made something else than lists", _OWN)
    for name, shape in wanted.items():
        if found[name].dtype != np.int32:
            raise Refused("guard.dtype", f"{name} are no item numbers", _OWN)
        if found[name].shape != shape:
            raise Refused("guard.shape", f"{name} are not {' x '.join(map(str, shape))}", _OWN)
        if not _in_range(found[name], -1 if name == "lists" else 0, n_items):
            raise Refused("guard.numbers", f"{name} name items that are not in the catalogue", _OWN)
    return encode(found)


def _in_range(array: Array, least: int, end: int) -> bool:
    return array.size == 0 or bool(array.min() >= least and array.max() < end)


def _shapes_of(plan: PlanText, n_items: int) -> list[Shapes]:
    """What the plan's model may look like: as it begins, or as one or two rounds' `finish` leave it.

    Own code is not run here, and a site has no torch: the model that own code or gradients train has the arrays that
    the plan declares. Only a statistic becomes another model.
    """
    if plan.own_code is not None or plan.aggregator["name"] != "sum":
        return [{name: (tensor.dtype, tensor.sized(n_items)) for name, tensor in plan.leaves.items()}]
    model = models.from_plan(plan.model)
    found = [_shapes(model.init(n_items, plan.seed))]
    finished = [_finished(model, size, min(2, plan.rounds)) for size in (5, 7)]  # the whole catalogue may take minutes
    for small, large in zip(*finished, strict=True):
        last = dict(found[0])
        for name, (dtype, shape) in small.items():
            sides = zip(shape, large[name][1], strict=True)
            last.setdefault(name, (dtype, tuple(n_items if a != b else a for a, b in sides)))
        found.append({name: last[name] for name in small})
    return found


def _finished(model: models.Model, n_items: int, rounds: int) -> list[Shapes]:
    declared = {name: Tensor.parse(text) for name, text in model.leaves().items()}
    step = SharedParams({name: np.ones(tensor.sized(n_items), tensor.dtype) for name, tensor in declared.items()})
    shared, found = model.init(n_items, 0), []
    for _ in range(rounds):
        shared = model.finish(shared, step)
        found.append(_shapes(shared))
    return found


def _bytes(shapes: Shapes) -> int:
    return sum(np.dtype(dtype).itemsize * prod(shape) for dtype, shape in shapes.values())


def _shapes(params: SharedParams) -> Shapes:
    return {name: (str(array.dtype), array.shape) for name, array in params.tensors.items()}
