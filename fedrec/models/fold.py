"""Users whom no round has seen: their private parameters from a few interactions, with the model as it is."""

from __future__ import annotations

import numpy as np

from fedrec.core.interactions import Interactions
from fedrec.core.params import Array, PrivateParams, SharedParams
from fedrec.models.base import Model

ROUNDS = 30  # of private steps, for models whose user vectors have no equation
NEWTON, CLOSE = 30, 1e-9  # steps at most; the slope at which a user vector counts as solved, per row


def fold_in(model: Model, rows: Interactions, shared: SharedParams) -> PrivateParams:
    """What `model.score` needs beside the shared parameters.

    Nothing for additive models: they score from the rows alone. A vector of softmax MF is solved; other gradient
    models take private steps on the new users only, whose gradient of the shared parameters is thrown away.
    """
    if model.aggregator_default == "sum":
        return PrivateParams({})
    if model.name == "mf":
        return PrivateParams({"users": softmax_users(rows, shared["items"], getattr(model, "user_decay"))})  # noqa: B009
    private = PrivateParams({})
    for _ in range(ROUNDS):
        _, private = model.fit_site(rows, shared, private)
    return private


def softmax_users(rows: Interactions, items: Array, decay: float) -> Array:
    """The u that minimises n log sum exp(V u) - u (sum of touched v) + decay/2 |u|^2, for each user of n items.

    Damped Newton steps on a convex function; zeros for a user without rows.

    Args:
        items: V; shape (n_items, factors).
        decay: of softmax MF, `user_decay`.

    Returns:
        Shape (n_users, factors).
    """
    v, x = items.astype(np.float64), rows.matrix()
    found = np.zeros((rows.n_users, v.shape[1]))
    ridge = max(decay, 1e-6) * np.eye(v.shape[1])
    for user in range(rows.n_users):
        mine = x.indices[x.indptr[user] : x.indptr[user + 1]]
        n, wanted = len(mine), v[mine].sum(0)
        u = found[user]
        for _ in range(NEWTON if n else 0):
            loss, p = _softmax(v, u)
            mean = p @ v
            slope = n * mean - wanted + ridge @ u
            if np.abs(slope).max() < CLOSE * n:
                break
            curve = n * ((v.T * p) @ v - np.outer(mean, mean)) + ridge
            step, size = np.linalg.solve(curve, slope), 1.0
            now = n * loss - u @ wanted + u @ ridge @ u / 2
            while size > 1e-6:
                new = u - size * step
                if n * _softmax(v, new)[0] - new @ wanted + new @ ridge @ new / 2 <= now - 1e-4 * size * (slope @ step):
                    break
                size /= 2
            else:
                break  # no lower point is found in double precision
            u = new
        found[user] = u
    return found


def _softmax(v: Array, u: Array) -> tuple[float, Array]:
    """(log sum exp(V u), its softmax)."""
    z = v @ u
    top = z.max()
    e = np.exp(z - top)
    total = e.sum()
    return float(top + np.log(total)), e / total
