# ---
# jupyter:
#   kernelspec:
#     display_name: scientist
#     language: python
#     name: fedrec-scientist
# ---

# %% [markdown]
# # 3 · The scientist trains
#
# **You are Ada, a data scientist.** Four cinemas let you train a recommender on their members' ratings without
# ever showing you one: what you send is a plan, what you get back is what their owners approved.
#
# **You will see** the mocks, a PyTorch model written in a cell, its rehearsal on made-up data, three plans
# submitted, their owners' decisions, training over four real datasites, a limit that holds, and at the end, in a
# table and a plot, what each cinema gains.
#
# > In real life this is your own machine, and the cinemas are somewhere else; see notebook 1. This kernel knows
# > their addresses and public keys (`consortium.toml`), the film catalogue, and your password.

# %%
import os
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import fedrec
from fedrec.datasets import synthetic
from fedrec.errors import Refused

federation = fedrec.connect(os.environ["FEDREC_CONSORTIUM"])  # as FEDREC_USER, with FEDREC_PASSWORD
print(f"logged in at {', '.join(federation.sites())}; {federation.n_items:,} films in the shared catalogue")

# %% [markdown]
# ## Mocks
#
# Each cinema publishes a mock: its columns and scale, invented rows. There is no taste to learn in it.

# %%
mocks = federation.mocks()
mocks["aurora"].head()

# %% [markdown]
# ## Your own model
#
# An ordinary class: dictionaries of arrays in and out, no fedrec in it. `fit_site` runs at the cinemas. It
# improves the members' vectors, which stay there, and returns one gradient for the films' vectors, which is what
# leaves.


# %%
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


# %% [markdown]
# ## Three plans
#
# A plan is what an owner reads, approves, and what then runs, to the letter: `fedrec.Plan` takes the source of
# your class from the cell above. `p1` trains on all but each member's last two films, so that the last one can be
# asked for; `all` trains on everything, for the model that is published.

# %%
purpose = f"Better film recommendations for all members (asked {datetime.now():%Y-%m-%d %H:%M:%S})"
asks = {"evaluate": True, "purpose": purpose}
ease, itemcf = fedrec.models.Ease(l2=200.0), fedrec.models.ItemCF()
plans = {
    "ease": fedrec.Plan(name="ease", model=ease, train=("p1", "all"), publish=True, **asks),
    "my_factors": fedrec.Plan(name="my_factors", code=MyFactors, rounds=25, runs=2, train=("p1",), **asks),
    "itemcf": fedrec.Plan(name="itemcf", model=itemcf, train=("p1",), **asks),
}
print(plans["ease"].text)

# %% [markdown]
# ## Rehearsal
#
# `fedrec.simulate` is the same federation in this process, to the last bit. On the mocks it shows that the code
# runs and what would leave...

# %%
rehearsal = fedrec.simulate(mocks)
tried = {name: rehearsal.train(plan, protocol="p1") for name, plan in plans.items()}
facts = {
    "rounds": {name: len(run.log) for name, run in tried.items()},
    "seconds": {name: round(sum(line["seconds"] for line in run.log), 2) for name, run in tried.items()},
    "leaves each round": {
        name: ", ".join(f"{leaf}: {tensor}" for leaf, tensor in plan.spec.leaves.items())
        for name, plan in plans.items()
    },
}
pd.DataFrame(facts)

# %% [markdown]
# ...and on generated ratings, which have tastes to find, that it learns: your model against each institution's
# own (`local`: the same model, trained on one institution's rows alone).

# %%
with tempfile.TemporaryDirectory() as place:
    synthetic(Path(place))
    made = pd.read_csv(Path(place) / "ratings.csv", dtype={"user": str, "item": str})
members = np.array_split(made["user"].unique(), 4)
parts = {f"part {n}": made[made["user"].isin(share)] for n, share in enumerate(members, 1)}
practice = fedrec.simulate(parts).train(plans["my_factors"])
practice.plot("ndcg@10")

# %% [markdown]
# ## Submit, and wait for the owners
#
# One PySyft code request per plan and cinema. **Go to notebook 2 now** and run it: there you are aurora's owner.
# The table below changes while owners decide.

# %%
# %%capture
# PySyft announces every function that it makes
requests = {name: federation.submit(plan) for name, plan in plans.items()}

# %%
decided = {name: sent.wait() for name, sent in requests.items()}

# %%
pd.DataFrame({name: table.set_index("site")["status"] for name, table in decided.items()})

# %% [markdown]
# ## Train
#
# The sites train, the centre (this notebook) adds up what they release. EASE needs one round, and is then exactly
# the model that one big cinema with everybody's ratings would have.

# %%
runs = {"ease": federation.train(plans["ease"], protocol="p1")}

# %%
runs["my_factors"] = federation.train(plans["my_factors"])
runs["my_factors"].plot()

# %% [markdown]
# Aurora denied `itemcf`. The other three train it without her.

# %%
runs["itemcf"] = federation.train(plans["itemcf"])
print("trained at", ", ".join(runs["itemcf"].log[0]["sites"]))

# %% [markdown]
# ## A limit holds
#
# You asked for two runs of your model; aurora's owner granted the rounds of one. A second run ends before it
# begins:

# %%
try:
    federation.train(plans["my_factors"])
except Refused as refusal:
    print(refusal)

# %% [markdown]
# ## Publish
#
# EASE once more, on all rows, and installed at the cinemas. Each makes lists for its own members; they stay
# there.

# %%
final = federation.train(plans["ease"], protocol="all")
pd.Series(final.publish(), name="model installed (SHA-256)").str[:16].to_frame()

# %% [markdown]
# ## What each cinema gains
#
# Evaluation runs at the sites, too: each looks for its members' last film in the ten best of all 1,682, and only
# sums over members leave. `local` is the same model with one cinema's ratings alone.

# %%
runs["my_factors"].plot("ndcg@10")

# %%
runs["ease"].plot("ndcg@10")

# %% [markdown]
# All members together. Such a figure has a standard error of about 8 %: the first two models gain more than that,
# `itemcf` at three cinemas does not.

# %% tags=["final-table"]
every = pd.concat({name: run.evaluate() for name, run in runs.items()}, names=["model", None])
every = every[every["institution"] == "all"].reset_index("model")
table = every.pivot(index="model", columns="scope", values=["hr@10", "ndcg@10"])
table.reindex(columns=["local", "federated"], level="scope").loc[list(runs)].round(4)
