"""A scientist's own model in plain PyTorch: no fedrec in it, one class, dicts of arrays in and out.

The tests hold it against the built-in recipe `mf`.
"""
# ruff: noqa: ARG002
# mypy: ignore-errors

import numpy as np
import torch


class MyFactors:
    # Matrix factorisation with a softmax over all items. User vectors and their Adam state stay at the site.
    def __init__(self, factors=64, steps=5, lr=0.03, prior=2.0):
        self.factors, self.steps, self.lr, self.prior = factors, steps, lr, prior

    def init(self, n_items, seed):
        spread = 0.3 / self.factors**0.5
        return {"items": np.random.default_rng(seed).normal(0, spread, (n_items, self.factors))}

    def loss(self, touched, users, items):
        return -(touched * torch.log_softmax(users @ items.T, 1)).sum()

    def fit_site(self, rows, shared, private):
        touched = torch.tensor(rows.matrix().toarray(), dtype=torch.float64)
        items = torch.tensor(shared["items"], dtype=torch.float64, requires_grad=True)
        start = private.get("users", np.zeros((rows.n_users, self.factors)))
        users = torch.tensor(start, requires_grad=True)
        adam = torch.optim.Adam([users], lr=self.lr)
        if private:
            adam.state[users] = {name: torch.tensor(private[name]) for name in ("step", "exp_avg", "exp_avg_sq")}
        for _ in range(self.steps):
            adam.zero_grad()
            loss = self.loss(touched, users, items.detach()) + self.prior / 2 * (users**2).sum()
            loss.backward()
            adam.step()
        mean_loss = self.loss(touched, users.detach(), items) / touched.sum().clamp(min=1)
        (gradient,) = torch.autograd.grad(mean_loss, items)
        return {"items": gradient}, {"users": users, **adam.state[users]}

    def score(self, rows, shared, private):
        return private["users"] @ shared["items"].T
